"""Models of sentence-transformers, by a small stand-in of the package with the same API."""

import hashlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from vse.embedders.by_name import find_reference


class _Model:
    """What is used of a SentenceTransformer (6.2)."""

    max_seq_length = 77

    def __init__(self, path: str, *, device: str, **options: Any) -> None:
        assert options == {"trust_remote_code": False, "local_files_only": True}
        if "broken" in path:
            raise ValueError("no modules.json")
        images = types.SimpleNamespace(size={"shortest_edge": 9}, crop_size={"height": 8})
        self.processor = types.SimpleNamespace(image_processor=images)
        if "texts-only" in path:
            self.processor = types.SimpleNamespace()

    def __getitem__(self, index: int) -> Any:
        return self

    def encode(self, inputs: list[Any], *, batch_size: int, **options: bool) -> np.ndarray:
        assert options == {
            "show_progress_bar": False,
            "convert_to_numpy": True,
            "normalize_embeddings": True,
        }
        rows = []
        for one in inputs:
            content = one.tobytes() if isinstance(one, Image.Image) else one.encode()
            seed = int.from_bytes(hashlib.sha256(content).digest()[:4], "little")
            row = np.random.default_rng(seed).normal(size=4)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(
        sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=_Model)
    )
    monkeypatch.chdir(tmp_path)
    for name in ("clip", "broken", "texts-only"):
        (tmp_path / name / "0_CLIPModel").mkdir(parents=True)
        (tmp_path / name / "0_CLIPModel/model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_images_and_texts_are_embedded(models: Path) -> None:
    reference = find_reference("sentence-transformers:clip")
    assert reference.home == Path("evaluations/sentence-transformers-clip")
    encoder = reference.load()
    paths = [models / f"{n}.png" for n in range(70)]
    for number, path in enumerate(paths[:-1]):
        Image.new("RGB", (5, 4), (number, 0, 0)).save(path)
    paths[-1].write_bytes(b"no image")
    told: list[tuple[int, int]] = []
    images, broken = encoder.embed_files(paths, report=lambda *done: told.append(done))
    assert images.shape == (70, 4) and images.dtype == np.float32 and list(broken) == [69]
    assert told[0] == (0, 70) and told[-1] == (70, 70)
    texts = encoder.embed_captions(["a dog", "a cat", "a dog"], report=lambda *done: None)
    np.testing.assert_array_equal(texts[0], texts[2])
    about = encoder.describe()
    assert (about["px"], about["max_tokens"]) == (8, 77) and len(about["weights_sha256"]) == 64


def test_the_fingerprint_knows_settings_and_tokenizer(models: Path) -> None:
    def describe() -> dict[str, Any]:
        return find_reference("sentence-transformers:clip").load().describe()

    before = describe()
    (models / "clip/0_CLIPModel/preprocessor_config.json").write_text('{"do_resize": false}')
    assert before["weights_sha256"] == describe()["weights_sha256"]
    assert before["fingerprint"] != describe()["fingerprint"]


def test_what_cannot_be_read_is_said(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, said in (("broken", "modules.json"), ("texts-only", "does not embed images")):
        with pytest.raises(UserError, match=said):
            find_reference(f"sentence-transformers:{name}").load()
    (models / "clip/1_Dense").mkdir()
    (models / "clip/1_Dense/pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickled"):
        find_reference("sentence-transformers:clip")
    with pytest.raises(UserError, match="float32"):
        find_reference("sentence-transformers:clip", dtype="float16")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="pip install"):
        find_reference("sentence-transformers:broken").load()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", [{"path": "", "type": "evil.Module"}]),
        ("modules.json", [{"path": "", "type": "someone/else--code.Module"}]),
        ("0_Router/router_config.json", {"types": {"query_0": "evil.Module"}, "structure": {}}),
    ],
)
def test_modules_from_elsewhere_are_refused(models: Path, file: str, content: Any) -> None:
    """The package would run the code of a local folder, whatever trust_remote_code says."""
    (models / "clip" / file).parent.mkdir(exist_ok=True)
    known = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    (models / "clip/modules.json").write_text(json.dumps(known))
    find_reference("sentence-transformers:clip")
    (models / "clip" / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match="code"):
        find_reference("sentence-transformers:clip")
