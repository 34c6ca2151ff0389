"""The page of `ser-hf demo`: by its functions, in Chromium, and as a Space that a clean machine downloads and starts.

python -m pytest tests/test_demo_page.py
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile as sf
import yaml
from test_fusion_pipeline import TEXTS
from test_fusion_pipeline import named as fusion_model
from test_fusion_pipeline import pipe_of as fusion_pipe
from test_pipeline import RATE, make, noise, pipe_of
from transformers import Wav2Vec2FeatureExtractor

import warm
from conftest import REPO
from hub_server import hub_server
from ser_hf.cli import main
from ser_hf.models.audio_blocks import AudioInputError
from ser_hf.models.pipeline_ser import UNSURE
from ser_hf.publish import page, push
from ser_hf.training.saved_model import save_model

SER_HF = (sys.executable, "-c", "import sys; from ser_hf.cli import main; sys.exit(main())")
CHROMIUM = "/usr/bin/chromium"
# As root, and without the requests that it makes by itself.
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
FLAGS += ["--disable-component-update", "--disable-sync"]
SCORES = [{"label": "sad", "score": 0.7}, {"label": "happy", "score": 0.3}]
SEGMENTS = [{"start": s, "end": s + 2.0, "scores": SCORES} for s in (0.0, 1.0)]


# ---- what is shown


@pytest.mark.parametrize(
    ("kind", "scores", "text"),
    [
        ("single_label_classification", SCORES, "sad, probability 0.70"),
        (
            "single_label_classification",
            [{"label": UNSURE, "score": 0.3}, *SCORES],
            "unsure; most probable is sad, 0.70",
        ),
        ("multi_label_classification", SCORES, "sad (0.70)"),
        ("multi_label_classification", [{**SCORES[0], "predicted": False}], "no label applies"),
        ("regression", [{"label": "valence", "score": -0.255}], "valence -0.26"),
    ],
)
def test_the_answer_in_words(kind, scores, text):
    html = page.answer_html(scores, kind, "whole")
    assert f"<h2>{text}</h2>" in html and html.count("<th") == len([one for one in scores if one["label"] != UNSURE])
    assert page.timeline_html([{"start": 0.0, "end": 1.0, "scores": scores}], kind).count(text) == 1


def test_labels_and_errors_are_text_and_no_markup():
    bad = [{"label": "<script>x</script>", "score": 1.0}]
    kind = "single_label_classification"
    for html in (
        page.answer_html(bad, kind, "<b>"),
        page.error_html("<script>"),
        page.image_html(b"", '"><script>', "<b>"),
    ):
        assert "<script" not in html and "<b>" not in html
    assert "<script" not in page.timeline_html([{"start": 0.0, "end": 1.0, "scores": bad}], kind)


def test_the_chart_has_its_values_as_a_table():
    html = page.timeline_html(SEGMENTS, "single_label_classification")
    assert html.count("data:image/png;base64,") == 1 and 'alt="Line chart of probabilities over 3.0 seconds' in html
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', html) == [
        ("0.0 to 2.0 s", "sad, probability 0.70"),
        ("1.0 to 3.0 s", "sad, probability 0.70"),
    ]
    assert page.timeline_html([], "regression") == ""  # a text alone has no times


def test_a_line_is_told_by_more_than_its_colour():
    assert len(set(page.STYLES)) == len(page.STYLES)


def test_the_label_is_of_the_whole_clip_or_of_the_windows_of_a_long_one():
    pipe = pipe_of(make())
    clip = (noise(3.0) / 32768).astype(np.float32)
    scores, segments, of = page.recognise(pipe, clip, None, 1.0, 0.0)
    assert scores == pipe(clip) and of == "from the whole clip, 3.0 s"
    assert segments == pipe(clip, window_s=1.0, hop_s=0.5, batch_size=8)["segments"] and len(segments) == 5
    scores, segments, of = page.recognise(pipe, np.tile(clip, 4), None, 4.0, 0.0)
    assert (
        scores == pipe(np.tile(clip, 4), window_s=4.0, hop_s=2.0, batch_size=8)["scores"]
        and of == "mean over the windows of 12.0 s"
    )


def test_files_that_are_refused(tmp_path, monkeypatch):
    with pytest.raises(AudioInputError, match="unreadable audio"):
        page.samples_of(b"no audio", RATE)
    sf.write(tmp_path / "a.wav", noise(2.0), RATE)
    content = (tmp_path / "a.wav").read_bytes()
    assert len(page.samples_of(content, 8000)) == 16000
    monkeypatch.setattr(page, "LONGEST_S", 1.5)
    with pytest.raises(AudioInputError, match="longer than 0.025 minutes; cut it"):
        page.samples_of(content, 8000)


# ---- the command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mine"
    save_model(make(), Wav2Vec2FeatureExtractor(return_attention_mask=True), folder)
    return folder


def refused(capsys, *argv) -> str:
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "Traceback" not in err
    return err


def test_mistakes_are_one_line(model, tmp_path, monkeypatch, capsys):
    assert re.search("--asr x: .*mine takes no text", refused(capsys, "demo", "--model", model, "--asr", "x"))
    assert "no such folder" in refused(capsys, "demo", "--model", tmp_path / "none")
    assert "--port: 0: must be at least 1" in refused(capsys, "demo", "--model", model, "--port", "0")
    monkeypatch.setattr("ser_hf.publish.demo.find_spec", lambda name: None)
    assert 'gradio, which is not installed: pip install "ser-hf[demo]"' in refused(capsys, "demo", "--model", "x")


@pytest.mark.slow
def test_the_page_is_served_here_alone(monkeypatch):
    import gradio as gr

    asked = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: asked.update(options))
    with gr.Blocks() as blocks:
        pass
    page.serve(blocks, server_name="127.0.0.1")
    assert (
        asked["share"] is False
        and asked["server_name"] == "127.0.0.1"
        and os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    )
    assert "fonts.googleapis" not in str(asked["theme"]._stylesheets)


@contextmanager
def served(*words, env):
    """A page on a free port, by a command of its own in this environment; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(word).replace("PORT", str(port)) for word in words]
    env = env | {"GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(600):
            time.sleep(0.2)
            try:
                urllib.request.urlopen(url, timeout=20).read()
                break
            except OSError:
                assert process.poll() is None, process.stdout.read()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    assert "Traceback" not in output, output


@pytest.mark.slow
def test_a_transcript_is_scored_with_the_sound():
    """The handlers of a fusion model's page: typed, or transcribed where it is left empty."""
    pipe = fusion_pipe(fusion_model(fusion="gated"))
    clip = (noise(2.0) / 32768).astype(np.float32)
    blocks = page.page(pipe, "mine", lambda audio: {"text": f"<|en|> {TEXTS[1]}"})
    (score,) = [one.fn for one in blocks.fns.values() if one.fn.__name__ == "score"]
    for typed, used in ((TEXTS[0], TEXTS[0]), ("", TEXTS[1])):
        shown = list(score(clip, typed, 1.0, 0.0).values())
        assert f"<h2>{page.heading(pipe({'audio': clip, 'text': used}), pipe.problem_type)}</h2>" in shown[0]
        assert shown[3] == used
    boxes = [block for block in blocks.blocks.values() if getattr(block, "label", "") == "Transcript (optional)"]
    assert boxes[0].visible


# ---- in a browser

NAMES = """() => [...document.querySelectorAll('button, input, textarea, select')]
    .filter(one => one.offsetParent !== null)
    .map(one => one.getAttribute('aria-label') || [...(one.labels || [])].map(l => l.innerText).join(' ')
                || one.innerText || one.title)"""


@pytest.fixture
def browser():
    missing = [] if shutil.which(CHROMIUM) else [f"{CHROMIUM} (`apt-get install chromium`)"]
    missing += [] if importlib.util.find_spec("playwright") else ["playwright (`pip install playwright`)"]
    if missing:
        pytest.fail(f"this test drives a browser and needs {' and '.join(missing)}; `-m 'not browser'` leaves it out")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_clip_is_uploaded_and_answered(browser, model, tmp_path, width):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    sf.write(tmp_path / "clip.wav", noise(3.0), RATE)
    (tmp_path / "bad.wav").write_text("no audio")
    expected = pipe_of(make())(str(tmp_path / "clip.wav"))
    asked = []
    with served(
        *SER_HF, "demo", "--model", model, "--port", "PORT", env={**os.environ, "TMPDIR": str(temporary)}
    ) as url:
        shown = browser.new_page(viewport={"width": width, "height": 844})
        shown.on("request", lambda request: asked.append(request.url))
        shown.set_default_timeout(120_000)
        shown.goto(url)
        button, file = shown.get_by_role("button", name="Recognise emotion"), "input[type=file]"
        button.click()
        assert "there is no clip" in shown.get_by_role("alert").inner_text()
        shown.locator(file).first.set_input_files(tmp_path / "clip.wav")
        shown.get_by_role("button", name="Play", exact=True).wait_for()
        button.click()
        answer = shown.locator(".ser h2")
        answer.wait_for()
        assert answer.inner_text() == f"{expected[0]['label']}, probability {expected[0]['score']:.2f}"
        table = dict(re.findall(r"(\w+)\s+(\d\.\d\d)", shown.locator(".ser table").first.inner_text()))
        assert table == {entry["label"]: f"{entry['score']:.2f}" for entry in expected}
        assert [one.get_attribute("alt").split()[0] for one in shown.locator(".ser img").all()] == ["Line", "Waveform"]
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        names = shown.evaluate(NAMES)
        assert len(names) >= 10 and all(name.strip() for name in names), names
        assert shown.locator("html").get_attribute("lang")

        shown.get_by_label("number input for Answer “unsure”").fill("1")
        button.click()
        shown.get_by_role("heading", name="unsure; most probable is").wait_for()
        shown.get_by_role("button", name="Clear").click()
        shown.locator(file).first.set_input_files(tmp_path / "bad.wav")
        line = shown.get_by_role("alert").inner_text()
        assert line.startswith("Error: unreadable audio") and "\n" not in line.strip()
        button.click()
        shown.get_by_text("there is no clip that can be read").wait_for()  # not the former one
        content = shown.content()
        assert "Traceback" not in content and str(model.parent) not in content and str(REPO) not in content
        assert list(temporary.rglob("*.wav"))
    assert not list(temporary.rglob("*.wav"))  # nothing of an upload is left
    assert {re.match(r"\w+://[^/]*|\w+:", one)[0] for one in asked} <= {url, "data:", "blob:"}


# ---- a Space


def test_a_local_run_is_no_model_of_a_space(model, capsys):
    line = refused(capsys, "push", "space", model, "--repo_id", "tester/page")
    assert f"push it first, `ser-hf push model {model} --repo_id USER/NAME`" in line


def test_the_version_of_a_space_is_the_tested_one():
    assert f"gradio=={push.GRADIO}\n" in (REPO / "constraints.txt").read_text()


@pytest.mark.slow
def test_a_space_starts_on_a_clean_machine(model, tmp_path):
    """Pushed over HTTP, downloaded, started: all code of ours that runs is the Space's own, and it reads the model from
    the Hub."""
    folder = tmp_path / "space"
    with hub_server() as hub:
        files = {file.name: file.read_bytes() for file in model.iterdir() if file.is_file()}
        hub.add_repo("tester/mine", files, private=True)
        hub.add_repo("tester/words", {"config.json": json.dumps({"model_type": "bert"}).encode()})

        pushes = [["tester/words"], ["tester/none"], ["tester/mine"], ["tester/mine", "--public"]]
        code = "import sys\nfrom ser_hf.cli import main\n"
        code += f"for flags in {pushes}:\n    print(main(['push', 'space', *flags, '--repo_id', 'tester/page']))"
        done = warm.python("-c", code, env=hub.env(tmp_path / "home"))
        assert done.returncode == 0, done.stderr
        assert re.sub("to http.*(/spaces/)", r"to \1", done.stdout).splitlines() == [
            *("2", "2"),
            "tester/mine is private: give the Space a secret HF_TOKEN that may read it, in its settings",
            "pushed to /spaces/tester/page",
            *("0", "2"),
        ]
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        for line, part in zip(
            errors, ("no classifier of audio", "tester/none: ", "exists and is private"), strict=True
        ):
            assert part in line
        assert hub.is_private("tester/page", "space")
        page_files = hub.files("tester/page", "space")
        front = yaml.safe_load(page_files["README.md"].decode().split("---\n")[1])
        assert front["sdk"] == "gradio" and front["models"] == ["tester/mine"] and front["app_file"] == "app.py"
        assert (
            "torch>=" in page_files["requirements.txt"].decode()
            and "ser-hf" not in page_files["requirements.txt"].decode()
        )
        assert not [name for name, content in page_files.items() if str(tmp_path).encode() in content]
        for name, content in page_files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        own = f"import ser_hf\nassert ser_hf.__file__.startswith({str(folder)!r})\n"
        (folder / "app.py").write_text(own + page_files["app.py"].decode())
        with served(sys.executable, folder / "app.py", env=hub.env(tmp_path / "reader")) as url:
            config = json.loads(urllib.request.urlopen(f"{url}/config").read())
            assert config["title"] == "Emotions of speech: tester/mine"
        assert not hub.unknown and not hub.errors
        assert any("tester/mine" in path and path.endswith("model.safetensors") for _, path in hub.requests)
