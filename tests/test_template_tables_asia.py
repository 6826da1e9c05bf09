"""What a reader of an Asian Wikipedia sees of the templates in a sentence: one sentence for each kind of rule."""

import pytest

from corpus.templates.rules import Templates
from corpus.wikitext import plain_text

JA = [
    # links, readings
    ("小説「{{仮リンク|アダム・ビード|en|Adam Bede}}」", "小説「アダム・ビード」"),
    ("{{仮リンク|海峡 (地理)|en|Strait|label=海峡}}に面する", "海峡に面する"),
    ("{{読み仮名|'''言語'''|げんご|{{lang-en-short|language}}}}は", "言語（げんご、英: language）は"),
    ("{{ruby|漢字|かんじ}}を読む", "漢字（かんじ）を読む"),
    ("司馬{{JIS2004フォント|遼}}太郎", "司馬遼太郎"),
    # languages
    ("独語（{{lang-de|Wort}}）", "独語（ドイツ語: Wort）"),
    ("「{{en|I am happy.}}」と言う。", "「I am happy.」と言う。"),
    ("[http://x.jp 公式]{{en icon}}", "公式（英語）"),
    ("露語（{{lang-ru|Россия|Rossiya}}）", "露語（ロシア語: Россия、ラテン文字転写: Rossiya）"),
    ("音は{{IPA-en|wɜːd|lang}}。", "音は英語発音: [wɜːd]。"),
    # what editors doubt
    ("しかし、{{疑問点範囲|コケは側系統群である|date=2021年}}。", "しかし、コケは側系統群である。"),
    ("多い{{要出典|date=2011年10月}}。", "多い。"),
    # dates, countries
    ("即位は{{和暦|1989}}、退位は{{和暦|2019|4|30}}。", "即位は平成元年、退位は平成31年。"),
    ("彼は{{没年齢|1940|10|9|1980|12|8}}。", "彼は1980年12月8日（40歳没）。"),
    ("発売は{{start date|2010|May|2}}。", "発売は2010年5月2日。"),
    ("相手は{{fb|JPN}}と{{JPN}}、{{flag|ハワイ州}}。", "相手は日本と日本、ハワイ州。"),
    ("{{by|2004年}}の{{flagicon|JPN}}選手", "2004年の選手"),
    ("位置は{{ウィキ座標度分秒|33|17|03|N|044|15|22|E|}}。", "位置は北緯33度17分03秒 東経044度15分22秒。"),
]
ZH = [
    ("{{le|無線|Radio}}和{{link-en|電視|TV}}", "無線和電視"),
    ("{{link-en|海參崴自由港|Free port|海參崴自由港區}}等", "海參崴自由港區等"),
    (
        "發送方的{{tsl|en|Congestion window|拥塞窗口}}與{{tsl|en|Fairness measure||公平原则}}",
        "發送方的拥塞窗口與公平原则",
    ),
    ("王某（{{bd|1943年|6月|2015年|3月15日|catIdx=X}}）", "王某（1943年6月－2015年3月15日）"),
    ("李某（{{bd|1967年|12月31日}}）", "李某（1967年12月31日－）"),
    ("词语（{{lang-en|word}}）", "词语（英语：word）"),
    ("日光（{{jpn|j=日光|hg=にっこう|rm=nikkō}}）", "日光（日语：日光／にっこう nikkō）"),
    ("在{{JPN}}和{{flag|KOR}}", "在日本和韩国"),
    ("水{{僻字|㶏|字形}}也，價{{CNY|5}}，合{{US$|1}}。", "水㶏也，價人民币5元，合1美元。"),
    ("很多{{fact|time=2010}}。", "很多。"),
]
VI = [
    ("Ông là {{ill|nhà văn|en|Writer|lt=nhà viết văn}} ({{lang-de|Wort}}).", "Ông là nhà viết văn (tiếng Đức: Wort)."),
    (
        "Hồ Chí Minh ({{ngày sinh|1890|5|19}} – {{ngày mất và tuổi|1969|9|2|1890|5|19}}).",
        "Hồ Chí Minh (19 tháng 5 năm 1890 – 2 tháng 9 năm 1969 (79 tuổi)).",
    ),
    ("Vua ({{Thời gian sống|1890|1969}}) và tướng {{KIA}}.", "Vua (1890–1969) và tướng (tử trận)."),
    ("Sách ({{zh|s=汉字|t=漢字|p=Hànzì}}).", "Sách (giản thể: 汉字; phồn thể: 漢字; bính âm: Hànzì)."),
    ("Ở {{VNM}} và {{flag|JPN}}{{cần dẫn nguồn}}.", "Ở Việt Nam và Nhật Bản."),
    ("{{tính đến|2010|5}} có {{số|1234}} người.", "Tính đến tháng 5 năm 2010 có 1.234 người."),
]
KO = [
    ("그는({{llang|en|James}}) {{임시링크|작가|en|Writer}}이다.", "그는(영어: James) 작가이다."),
    ("그는 {{사망일과 나이|1900|1|2|1980|3|4}} 죽었다.", "그는 1980년 3월 4일(80세) 죽었다."),
    ("{{국기나라|일본}}과 {{KOR}}에서 많다{{출처|날짜=2010}}.", "일본과 대한민국에서 많다."),
]
OTHERS = [
    ("id", "Kata ({{lang-de|Wort}}) dari {{JPN}}.", "Kata (bahasa Jerman: Wort) dari Jepang."),
    ("ms", "Kata ({{lang-en|word}}) dari {{USA}}.", "Kata (bahasa Inggeris: word) dari Amerika Syarikat."),
    ("th", "คำ ({{lang-en|word}})", "คำ (อังกฤษ: word)"),
    ("ar", "كلمة {{إنج|word}} أو {{lang-fr|mot}}", "كلمة (بالإنجليزية: word) أو بالفرنسية: mot"),
    ("ar", "ذهب إلى {{وصلة إنترويكي|تر=Strait|عر=مضيق|نص=المضيق}}.", "ذهب إلى المضيق."),
    ("fa", "واژه {{به انگلیسی|word}} است.", "واژه (به انگلیسی: word) است."),
    ("he", "מילה ({{lang-en|word}}) מתוך {{JPN}}.", "מילה (באנגלית: word) מתוך יפן."),
    ("hi", "शब्द ({{lang-en|word}}) है{{तथ्य}}।", "शब्द (अंग्रेज़ी: word) है।"),
    ("bn", "শব্দ ({{lang-en|word}}), {{birth date|1990|5|2}}।", "শব্দ (ইংরেজি: word), 2 মে 1990।"),
    ("ta", "சொல் ({{lang-en|word}})", "சொல் (ஆங்கிலம்: word)"),
]
SENTENCES = [("ja", *case) for case in JA] + [("zh", *case) for case in ZH] + [("vi", *case) for case in VI]
SENTENCES += [("ko", *case) for case in KO] + OTHERS


@pytest.mark.parametrize("language, wikitext, seen", SENTENCES)
def test_a_reader_sees(language, wikitext, seen):
    assert plain_text(wikitext, templates=Templates(language)) == seen


@pytest.mark.parametrize("language", ["tr", "fi", "en"])
def test_marks_of_languages_are_not_written_in_the_words_of_another_wiki(language):
    text = plain_text("Site {{he}}{{yue}}{{he icon}}, x.", templates=Templates(language))
    assert all(character.isascii() for character in text), text


@pytest.mark.parametrize("language", ["ja", "zh", "vi", "ko"])
def test_boxes_of_a_page_leave_no_line(language):
    """Navigation and notices whose names look like words of a sentence, called with no unnamed argument."""
    page = "a\n{{EU}}\n{{特殊文字|説明=b}}\n{{Chinese|t=中|p=c}}\n{{small}}\n"
    assert plain_text(page, templates=Templates(language)) == "a"
