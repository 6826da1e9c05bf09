// The page of serve.py: a conversation with the model, or, where the model has no chat template, continued texts.
//
// What is said stays in this browser (localStorage). Text of the model becomes text nodes, never HTML.
"use strict";

const DEFAULTS = {
  system: "", temperature: 0.7, top_p: 0.95, max_tokens: 512, seed: "", theme: "auto",
};
const find = (id) => document.getElementById(id);

let model = null;       // what /v1/models says of it
let turns = [];         // {role, content, note}
let settings = { ...DEFAULTS };
let running = null;     // the AbortController of the answer that is being written

// --- what is kept ---

function load(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function keep(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch (error) {
    notice(`This browser keeps nothing: ${error.message}`);
  }
}

const keepTurns = () => keep("nonllama.turns", turns);

// --- what is shown ---

function notice(text) {
  find("notice").textContent = text;
  find("notice").hidden = !text;
}

function button(name, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = name;
  made.addEventListener("click", action);
  return made;
}

function turnElement(turn, number) {
  const item = document.createElement("li");
  item.className = `turn ${turn.role}`;

  const who = document.createElement("span");
  who.className = "unseen";
  who.textContent = turn.role === "user" ? "You: " : "Model: ";

  const text = document.createElement("div");
  text.className = "text";
  text.dir = "auto";
  if (turn.given) {  // a continued text shows what it continues
    const given = document.createElement("span");
    given.className = "given";
    given.textContent = turn.given;
    text.append(given);
  }
  text.append(document.createTextNode(turn.content));
  item.append(who, text);

  if (turn.role === "assistant") {
    item.append(underElement(turn, number));
  }
  return item;
}

function underElement(turn, number) {
  const under = document.createElement("div");
  under.className = "under";
  const isWriting = running && number === turns.length - 1;
  if (isWriting) {
    return under;
  }
  under.append(button("Copy", (event) => copy((turn.given ?? "") + turn.content, event.target)));
  if (number === turns.length - 1) {
    under.append(button("Retry", retry));
  }
  if (turn.note) {
    under.append(turn.note);
  }
  return under;
}

function show() {
  find("turns").replaceChildren(...turns.map(turnElement));
  find("empty").hidden = turns.length > 0;
  find("send").hidden = running !== null;
  find("stop").hidden = running === null;
  const last = find("turns").lastElementChild;
  if (last && running) {
    last.classList.add("writing");
  }
  scrollDown();
}

function scrollDown() {
  const main = document.querySelector("main");
  main.scrollTop = main.scrollHeight;
}

function addText(text) {
  const last = turns[turns.length - 1];
  last.content += text;

  // a reader who has scrolled up stays there
  const main = document.querySelector("main");
  const atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 60;
  find("turns").lastElementChild.querySelector(".text").lastChild.data = last.content;
  if (atEnd) {
    scrollDown();
  }
}

async function copy(text, pressed) {
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    notice("This browser does not let the page copy; select the text instead.");
  }
}

// --- the server ---

function headers() {
  const key = sessionStorage.getItem("nonllama.key");
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  return { "Content-Type": "application/json", ...authorization };
}

async function check(response) {
  if (response.ok) {
    return response;
  }
  const body = await response.json().catch(() => null);
  const error = new Error(body?.error?.message ?? `The server answers ${response.status}.`);
  error.code = body?.error?.code;
  error.status = response.status;
  throw error;
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      throw new Error("The server ended in the middle of the answer.");
    }
    const lines = (waiting + value).split("\n");
    waiting = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") {
        return;
      }
      if (line.startsWith("data: ")) {
        yield JSON.parse(line.slice(6));
      }
    }
  }
}

function drawing() {
  const seed = settings.seed === "" ? {} : { seed: Number(settings.seed) };
  return {
    model: model.id, stream: true, temperature: Number(settings.temperature), top_p: Number(settings.top_p),
    max_tokens: Number(settings.max_tokens), ...seed,
  };
}

// The response that continues a text.
async function askForText(text, signal) {
  const body = JSON.stringify({ ...drawing(), prompt: text });
  return check(await fetch("v1/completions", { method: "POST", headers: headers(), body, signal }));
}

// The response that answers these turns. Where they are too long for the context, the oldest ones go.
async function askForAnswer(said, signal) {
  let first = 0;
  for (;;) {
    const shown = said.slice(first).map(({ role, content }) => ({ role, content }));
    const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
    const body = JSON.stringify({ ...drawing(), messages: [...system, ...shown] });
    try {
      const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body, signal });
      await check(response);
      if (first > 0) {
        notice(`The conversation is longer than the model's context: it does not see the first ${first} messages.`);
      }
      return response;
    } catch (error) {
      const next = said.findIndex((turn, place) => place > first && turn.role === "user");
      if (error.code !== "context_length_exceeded" || next < 0) {
        throw error;
      }
      first = next;
    }
  }
}

// --- what one can do ---

// Answer the last turn, which is the user's.
async function answer() {
  const asked = turns[turns.length - 1];
  const answered = { role: "assistant", content: "" };
  if (!model.chat) {
    answered.given = asked.content;
    turns.pop();
  }
  const said = [...turns];
  const mine = turns;
  turns.push(answered);
  running = new AbortController();
  notice("");
  show();

  try {
    const { signal } = running;
    const response = model.chat ? await askForAnswer(said, signal) : await askForText(asked.content, signal);
    for await (const part of eventsOf(response)) {
      if (part.error) {
        throw new Error(part.error.message);
      }
      const [choice] = part.choices;
      addText(choice.delta?.content ?? choice.text ?? "");
      if (choice.finish_reason === "length") {
        answered.note = "ended: no more tokens were allowed, or the context is full";
      }
    }
  } catch (error) {
    if (error.name === "AbortError") {
      answered.note = "stopped";
    } else {
      failed(error);
    }
  }
  running = null;
  if (turns !== mine) {  // a new conversation has begun meanwhile
    show();
    return;
  }
  if (!answered.content) {  // nothing came: the question goes back to where it was typed
    turns.pop();
    if (model.chat) {
      turns.pop();
    }
    if (!find("text").value) {
      find("text").value = asked.content;
    }
  }
  keepTurns();
  show();
  find("spoken").textContent = answered.content;
}

function failed(error) {
  const isNetwork = error instanceof TypeError;
  notice(isNetwork ? "The server cannot be reached." : error.message);
  if (error.status === 401) {
    openSettings();
    find("key").focus();
  }
}

async function send(event) {
  event.preventDefault();
  const text = find("text").value;
  if (!text.trim() || running) {
    return;
  }
  if (model === null && !(await learnModel())) {
    return;
  }
  find("text").value = "";
  turns.push({ role: "user", content: text });
  keepTurns();
  await answer();
  find("text").focus();
}

async function retry() {
  const last = turns.pop();
  if (last.given !== undefined) {
    turns.push({ role: "user", content: last.given });
  }
  if (model === null && !(await learnModel())) {
    turns.push(last);
    return;
  }
  await answer();
}

function begin() {
  running?.abort();
  turns = [];
  keepTurns();
  notice("");
  show();
  find("text").focus();
}

function openSettings() {
  for (const key of Object.keys(DEFAULTS)) {
    find(key).value = settings[key];
  }
  find("key").value = sessionStorage.getItem("nonllama.key") ?? "";
  if (!find("settings").open) {
    find("settings").showModal();
  }
}

function takeSettings() {
  for (const key of Object.keys(DEFAULTS)) {
    const field = find(key);
    settings[key] = field.checkValidity() ? field.value : DEFAULTS[key];
  }
  sessionStorage.setItem("nonllama.key", find("key").value);
  keep("nonllama.settings", settings);
  showTheme();
  if (model === null) {
    learnModel();
  }
}

function showTheme() {
  if (settings.theme === "auto") {
    delete document.documentElement.dataset.theme;
  } else {
    document.documentElement.dataset.theme = settings.theme;
  }
}

async function learnModel() {
  try {
    const response = await check(await fetch("v1/models", { headers: headers() }));
    [model] = (await response.json()).data;
  } catch (error) {
    failed(error);
    return false;
  }
  notice("");
  find("model").textContent = model.id;
  document.title = model.id;
  find("max_tokens").max = model.max_new_tokens;
  if (!model.chat) {
    find("empty").textContent = "This model has no chat template: it does not answer, it continues your text.";
    find("text").placeholder = "Beginning of a text";
    find("text-label").textContent = "Beginning of a text";
  }
  return true;
}

// --- the beginning ---

turns = load("nonllama.turns", []);
if (turns.at(-1)?.role === "user") {  // the page was closed before the answer came
  find("text").value = turns.pop().content;
}
settings = { ...DEFAULTS, ...load("nonllama.settings", {}) };

find("ask").addEventListener("submit", send);
find("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("ask").requestSubmit();
  }
});
find("stop").addEventListener("click", () => running?.abort());
find("new").addEventListener("click", begin);
find("open-settings").addEventListener("click", openSettings);
find("settings").addEventListener("close", takeSettings);
find("reset-settings").addEventListener("click", () => {
  for (const [key, value] of Object.entries(DEFAULTS)) {
    find(key).value = value;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !find("settings").open) {
    running?.abort();
  }
});

showTheme();
show();
learnModel();
find("text").focus();
