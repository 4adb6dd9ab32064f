"""English is told from other languages, and no identifier is loaded where nothing is in doubt."""

import subprocess
import sys

import pytest

from captioner.text.language import find_weakest_stretch, is_foreign, measure_foreign_letters

ENGLISH = (
    "The image shows a busy street in a city. Several people are walking on the sidewalk, and some "
    "of them carry bags. In the background there is a red car that is parked beside a tree."
)
SIGN = 'The image shows a street sign in Tokyo that reads "新宿駅 東口", and people wait there.'
LIST = "Brown dog, green grass, red ball, blue sky, white clouds, wooden fence, stone house, trees."


def judge(text: str) -> bool:
    return is_foreign(text, text.lower().replace(".", "").replace(",", "").split())


@pytest.mark.parametrize(
    "text",
    [
        "Ein kleiner Hund läuft über eine grüne Wiese. Er hat einen Ball im Maul.",
        "Un petit chien court dans un champ vert. Il tient une balle dans sa gueule.",
        "Un perro pequeño corre por un campo verde. Lleva una pelota en la boca.",
        "Un piccolo cane corre in un campo verde. Ha una palla in bocca e si diverte.",
        "一只小狗在绿色的草地上奔跑，嘴里叼着一个球。",
        "小さな犬が緑の草原を走っています。",
        "Маленькая собака бежит по зелёному полю.",
        "كلب صغير يركض في حقل أخضر. في فمه كرة.",
        # The language changes midway.
        ENGLISH + " Im Hintergrund ist ein rotes Auto zu sehen, das neben einem Baum geparkt ist, "
        "und davor steht eine Frau mit einem Hund.",
        ENGLISH + " 它嘴里叼着一个球，看起来很开心，背景中有一辆红色的汽车停在一棵树旁。",
    ],
)
def test_foreign(text: str) -> None:
    assert judge(text)


@pytest.mark.parametrize("text", [ENGLISH, SIGN, LIST, "Hund und Katze.", "", "A café, a crêpe."])
def test_english_or_too_short_to_tell(text: str) -> None:
    assert not judge(text)


def test_foreign_letters() -> None:
    assert measure_foreign_letters("plain") == measure_foreign_letters("") == 0
    assert measure_foreign_letters("Straße, crème brûlée, Đà Nẵng") == 0
    assert measure_foreign_letters("ab犬。猫") == pytest.approx(0.5)


def test_the_weakest_third_is_the_one_in_doubt() -> None:
    english, other = ["the", "man", "is", "here"] * 2, ["zwei", "alte", "rote", "Autos"] * 2
    assert find_weakest_stretch([*english, *other, *english]) == other
    assert find_weakest_stretch(english * 3) == ()
    assert find_weakest_stretch(other[:7]) == ()


def test_the_identifier_is_loaded_for_doubtful_texts_alone() -> None:
    code = (
        "import sys; from captioner.text.quality import assess\n"
        f"assert assess({ENGLISH!r}, 'stop').flags == [] and 'py3langid' not in sys.modules\n"
        f"assert assess({LIST!r}, 'stop').flags == [] and 'py3langid' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
