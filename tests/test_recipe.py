"""benchmarks/recipe.py: what a change changes, borders between documents, runs that are not made twice, the table."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY

import muon
import train
from benchmarks import gpt_to_llama, recipe
from benchmarks.recipe import CHANGES, CLOSED, RECIPE, Change, RecipeConfig, closed_borders, main, settings_of, table
from mixture import Mixture
from model import Llama, ModelConfig
from tokenizer import Tokenizer

pytestmark = [pytest.mark.usefixtures("no_plot"), pytest.mark.bench]


@pytest.fixture
def small(monkeypatch, data_dir, tmp_path) -> RecipeConfig:
    """Runs of the small model of all tests, instead of the demo's."""
    usual = {key: value for key, value in TINY.items() if key not in ("max_iters", "eval_interval")}
    monkeypatch.setattr(gpt_to_llama, "pick_dtype", lambda *args: torch.float32)
    monkeypatch.setattr(recipe.train, "TrainConfig", lambda **settings: TrainConfig(**settings | usual))
    return RecipeConfig(data=str(data_dir), out=str(tmp_path / "out"), only="borders", max_iters=3, seeds=1)


TrainConfig = train.TrainConfig
RAMP = "batch ramp: half of it for half of the tokens"


@pytest.mark.parametrize("data", ["", "pydocs"])
def test_a_change_is_one_thing_and_all_runs_see_as_many_tokens(tmp_path, data):
    cfg = RecipeConfig(max_iters=400, data=data)
    usual = recipe.usual_settings(cfg, tmp_path)
    unchanged = settings_of(CHANGES[RECIPE], usual, 1)
    assert (unchanged.max_iters, unchanged.warmup_iters, unchanged.muon_lr) == (400, 20, 0.01)
    assert unchanged.eval_interval == 400 and unchanged.qk_norm and unchanged.optimizer == "muon"

    assert len(cfg.names()) >= len(CHANGES) - 2
    for name in cfg.names():
        change = CHANGES[name]
        settings = settings_of(change, usual, 1)
        settings.check()
        if name != RAMP:  # which reads less than batch_tokens at first
            assert settings.max_iters * settings.batch_tokens == unchanged.max_iters * unchanged.batch_tokens, name
        differs = {key for key, value in vars(settings).items() if value != vars(unchanged)[key]}
        assert differs or change.patch is not Change().patch or name == RECIPE, name
    halved = settings_of(CHANGES["half the batch, twice the steps"], usual, 1)
    windows = (halved.batch_tokens // halved.block_size, halved.batch_size)
    assert windows == (6, 6) and (halved.max_iters, halved.warmup_iters) == (800, 40)


def test_a_model_of_another_size_has_the_recipe_otherwise(tmp_path):
    cfg = RecipeConfig(data="pydocs", n_layer=6, n_embd=256)
    larger = settings_of(CHANGES[RECIPE], recipe.usual_settings(cfg, tmp_path), 1)
    usual = settings_of(CHANGES[RECIPE], recipe.usual_settings(RecipeConfig(data="pydocs"), tmp_path), 1)
    assert (larger.n_layer, larger.n_embd, larger.n_head, larger.n_kv_head, larger.ffn_hidden) == (6, 256, 4, 2, 768)
    differs = {key for key, value in vars(larger).items() if value != vars(usual)[key]}
    assert differs == {"n_layer", "n_embd", "ffn_hidden"}
    assert recipe.digest(larger) != recipe.digest(usual)
    assert "two heads" not in cfg.names() and "two heads" in RecipeConfig(data="pydocs").names()


def test_behind_closed_borders_a_window_has_the_loss_of_its_documents_alone(data_dir):
    end = Tokenizer.load(data_dir).end_of_text
    torch.manual_seed(0)
    model = Llama(ModelConfig(320, 32, 2, 4, 2, 32, 64))
    with closed_borders(end):
        data = Mixture(f"{data_dir}:1", 32, seed=0)
        batches = [data.batch(torch.arange(8).numpy()), next(data.corpora[0].val_batches(8, 0, 1))]

    for batch in batches:
        alone = torch.zeros(())
        documents = 0
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            ends = [place + 1 for place in range(31) if inputs[place] == end]
            for begin, stop in zip([0, *ends], [*ends, 32], strict=True):
                alone = alone + model(inputs[None, begin:stop], targets[None, begin:stop])
                documents += 1
        assert documents > 8, "some windows have a border"
        together = model(batch.inputs, batch.targets, cu_seqlens=batch.cu_seqlens)
        torch.testing.assert_close(together, alone)


def test_first_weights_are_changed_for_a_run_only():
    model = Llama(ModelConfig(320, 32, 2, 4, 2, 32, 64))
    name = "model.layers.1.mlp.down_proj.weight"

    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        names = {parameter: name for name, parameter in model.named_parameters()}
        return {names[parameter]: value for parameter, value in model.initial_weights()}

    usual = weights()
    with CHANGES["first weights: outputs 0"].patch(0):
        changed = weights()
    assert changed[name].abs().max() == 0 and torch.equal(weights()[name], usual[name])
    assert torch.equal(changed["model.embed_tokens.weight"], usual["model.embed_tokens.weight"])
    with CHANGES["first weights: 1 / sqrt(width)"].patch(0):
        torch.testing.assert_close(weights()[name], usual[name] / 0.02 / 32**0.5)


def test_a_run_of_an_older_recipe_is_not_taken_for_one_of_todays(tmp_path):
    cfg = RecipeConfig(text="", max_iters=400)
    usual = recipe.usual_settings(cfg, tmp_path)
    today = recipe.digest(settings_of(CHANGES[RECIPE], usual, 1))
    elsewhere = recipe.digest(settings_of(CHANGES[RECIPE], usual | {"data": "b", "num_threads": 2}, 1))
    older = recipe.digest(settings_of(CHANGES[RECIPE], usual | {"muon_lr": 0.02}, 1))
    assert today == elsewhere != older


def test_muons_momentum_is_changed_for_a_run_only():
    def momentum() -> float:
        matrix = torch.nn.Parameter(torch.zeros(2, 2))
        return muon.Muon([{"params": [matrix]}], lr=0.1, dtype=torch.float32).defaults["momentum"]

    with CHANGES["momentum of muon 0.9"].patch(0):
        assert momentum() == 0.9
    assert momentum() == 0.95


def test_muons_matrices_are_changed_for_a_run_only():
    """Singular values, and the lengths of rows, as each change says."""
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 20) * torch.logspace(-2, 0, 8).view(1, 8, 1)  # of very different rows

    def spread(name: str) -> tuple[float, float]:
        """How far singular values are from 1, and how unequal the rows are, after two steps."""
        with CHANGES[name].patch(0):
            muon.orthogonalise(matrices)
            updates = muon.orthogonalise(matrices)
        lengths = updates.norm(dim=2)
        return (torch.linalg.svdvals(updates) - 1).abs().max().item(), (lengths.amax(1) / lengths.amin(1)).max().item()

    usual, usual_rows = spread(RECIPE)
    assert spread("Muon, exactly orthogonal")[0] < 1e-5
    assert spread("Muon by Polar Express")[0] < 0.2 < usual
    assert usual_rows > 1.1
    assert spread(RECIPE) == (usual, usual_rows)


def test_normuon_divides_each_row_by_its_usual_length():
    """In the second step, by the running mean of two; the matrix is as long as before."""
    torch.manual_seed(0)
    matrices = [torch.randn(1, 3, 4) * torch.tensor([[0.1], [1.0], [0.3]]) for _ in range(2)]
    first, second = [muon.orthogonalise(matrix) for matrix in matrices]
    with CHANGES["Muon, even rows behind (NorMuon)"].patch(0):
        _, found = [muon.orthogonalise(matrix) for matrix in matrices]

    square = 0.95 * 0.05 * first.square().mean(2, keepdim=True) + 0.05 * second.square().mean(2, keepdim=True)
    expected = second / square.sqrt()
    torch.testing.assert_close(found, expected * second.norm() / expected.norm())


def test_a_batch_ramp_reads_each_window_once(data_dir, tmp_path):
    ramp = CHANGES[RAMP]
    usual = recipe.usual_settings(RecipeConfig(max_iters=400), tmp_path)
    settings = settings_of(ramp, usual, 1)
    assert (settings.max_iters, settings.batch_size) == (600, 6)

    read = []
    run = SimpleNamespace(cfg=settings, data=SimpleNamespace(batch=read.append))
    with ramp.patch(0):
        counts = [len(train.read_batches(run, step)) for step in range(settings.max_iters)]
    assert counts == [1] * 400 + [2] * 200
    assert np.array(read).flatten().tolist() == list(range(400 * 12))


@pytest.mark.slow
def test_runs_are_made_once_and_the_table_compares_within_a_seed(small, monkeypatch, capsys):
    main(small)
    first = json.loads((recipe.Path(small.out) / "results.json").read_text())
    assert set(first) == {RECIPE, CLOSED}
    open_run, closed_run = first[RECIPE][0], first[CLOSED][0]
    assert closed_run["val_loss"] == pytest.approx(closed_run["closed_val_loss"], rel=1e-6)  # train.py's and its own
    assert open_run["val_loss"] != pytest.approx(open_run["closed_val_loss"], rel=1e-6)

    trained = []
    real_main = train.main
    monkeypatch.setattr(recipe.train, "main", lambda cfg: trained.append(cfg.seed) or real_main(cfg))
    main(recipe.dataclasses.replace(small, seeds=2))
    assert trained == [1, 1]
    assert "seed 1 | the recipe" in capsys.readouterr().out

    reached = {RECIPE: [{"val_loss": 2.0}, {"val_loss": 3.0}], "other": [{"val_loss": 1.5}, {"val_loss": 2.7}]}
    lines = table(reached).splitlines()
    assert lines[2] == "| other | 2.1000 | -0.4000 ±0.1414 |" and lines[3] == "| the recipe | 2.5000 |  |"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds .0. must be at least 1"),
        ({"data": "pydocs", "n_embd": 192}, "n_embd .192. must be a multiple of 128"),
        ({"text": "no/such.txt"}, "no/such.txt is no file; put a text there"),
        ({"data": "pydocs", "only": "(warm"}, "only ...warm.. is no regular expression: missing"),
        ({"data": "pydocs", "only": "warmup"}, "no change has a name with 'warmup'; there are: the recipe, "),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        main(RecipeConfig(**settings))
