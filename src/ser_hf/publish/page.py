"""The page of `ser-hf demo` and of a Space: a clip in, its emotions over time out. A Space is this file with those that
it imports (`push.SPACE_FILES`)."""

import base64
import os
import traceback
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at gradio's import

from ..errors import SerError, one_line, trouble
from ..evaluation.panels import draw_rows, draw_waveform
from ..files import png
from ..models import SerPipeline, SerSpectrogramFeatureExtractor
from ..models.audio_blocks import AudioInputError, read
from ..models.encoders import longest_clip
from ..models.pipeline_ser import UNSURE
from ..models.text_cleaning import without_control_tokens

if TYPE_CHECKING:
    from gradio import Blocks

WINDOW_S = 2.0  # seconds of a window at first
LONGEST_S = 600.0  # seconds of a clip that the page takes
WHOLE_S = 10.0  # the label of a longer clip is that of the mean over its windows
MOST_BYTES = 100 * 2**20  # of an upload
KEPT_S = 60  # seconds after which an uploaded file is removed; the browser has played it from its own copy by then
MOST_ROWS = 200  # windows in the table beside the chart
SINGLE = "single_label_classification"
FEW = 3  # lines that are named in any case
# A line is told from another by its dashes and its marker too.
STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ("-", "v"), ("--", "P"), (":", "X"), ("-.", "*"))
CSS = Path(__file__).with_suffix(".css").read_text()


def published(name: str) -> SerPipeline:
    """The pipeline of a model on the Hub by the classes of this package: no code of its repository runs."""
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, AutoProcessor

    model = AutoModelForAudioClassification.from_pretrained(name)
    processor = AutoProcessor.from_pretrained(name) if hasattr(model.config, "text_config") else None
    extractor = processor.feature_extractor if processor else AutoFeatureExtractor.from_pretrained(name)
    return SerPipeline(model=model, feature_extractor=extractor, processor=processor)


def samples_of(content: bytes, rate: int) -> np.ndarray:
    """The samples of an audio file, mono float32 at `rate` Hz. Raises AudioInputError: unreadable, or too long."""
    blocks, total = [], 0
    for block in read(content, rate):
        blocks.append(block)
        total += len(block)
        if total > LONGEST_S * rate:
            advice = "cut it, or use `ser-hf predict FILE --window_s 4`"
            raise AudioInputError(f"the clip is longer than {LONGEST_S / 60:g} minutes; {advice}")
    return np.concatenate(blocks)


def recognise(pipe: SerPipeline, samples: np.ndarray, text: str | None, window_s: float, abstain_below: float) -> tuple:
    """`(scores, segments, of)` of a clip: scores, windows of `window_s` seconds, each half a window after the last, and
    what the scores are of: the whole clip, or the mean over windows of a long one (above `WHOLE_S`)."""
    seconds = len(samples) / pipe.feature_extractor.sampling_rate
    clip = {"audio": samples, "text": text} if text else samples
    options = {"abstain_below": abstain_below} if pipe.problem_type == SINGLE else {}
    windowed = pipe(clip, window_s=window_s, hop_s=window_s / 2, batch_size=8, **options)
    longest = longest_clip(getattr(pipe.model.config, "audio_config", pipe.model.config)) or WHOLE_S
    if seconds > min(longest, WHOLE_S):
        return windowed["scores"], windowed["segments"], f"mean over the windows of {seconds:.1f} s"
    return pipe(clip, **options), windowed["segments"], f"from the whole clip, {seconds:.1f} s"


# ---- what is shown, as HTML


def heading(scores: list[dict], kind: str) -> str:
    """The answer as one line of text. `kind` is the pipeline's `problem_type`."""
    if kind == "regression":
        return ", ".join(f"{entry['label']} {entry['score']:.2f}" for entry in scores)
    if kind == "multi_label_classification":
        present = [f"{e['label']} ({e['score']:.2f})" for e in scores if e.get("predicted", e["score"] >= 0.5)]
        return ", ".join(present) or "no label applies"
    if scores[0]["label"] == UNSURE:
        return f"unsure; most probable is {scores[1]['label']}, {scores[1]['score']:.2f}"
    return f"{scores[0]['label']}, probability {scores[0]['score']:.2f}"


def labels(scores: list[dict]) -> list[dict]:
    """The scores of the model's labels alone."""
    return [entry for entry in scores if entry["label"] != UNSURE]


def answer_html(scores: list[dict], kind: str, of: str) -> str:
    """The answer, and a table of all labels with a bar for each probability."""
    bars = kind != "regression"
    rows = ""
    for entry in labels(scores):
        bar = f'<td class="bar" aria-hidden="true"><div style="width:{100 * entry["score"]:.1f}%"></div></td>'
        rows += f'<tr><th scope="row">{escape(entry["label"])}</th>{bar if bars else ""}'
        rows += f'<td class="number">{entry["score"]:.2f}</td></tr>'
    caption = "Probability of each label" if bars else "Values"
    table = f"<table><caption>{caption}, {escape(of)}</caption><tbody>{rows}</tbody></table>"
    return f'<div class="ser" role="status"><h2>{escape(heading(scores, kind))}</h2>{table}</div>'


def error_html(line: str) -> str:
    return f'<div class="ser"><p class="error" role="alert"><strong>Error:</strong> {escape(line)}</p></div>'


def image_html(image: bytes, alt: str, caption: str) -> str:
    data = base64.b64encode(image).decode()
    picture = f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def timeline_html(segments: list[dict], kind: str) -> str:
    """Chart of the scores of windows over time, and the same as a table."""
    if not segments:
        return ""
    names = sorted(entry["label"] for entry in labels(segments[0]["scores"]))
    values = {name: [] for name in names}
    for segment in segments:
        for entry in labels(segment["scores"]):
            values[entry["label"]].append(entry["score"])
    middles = [(segment["start"] + segment["end"]) / 2 for segment in segments]
    leading = [heading(segment["scores"], kind) for segment in segments]
    rows = "".join(
        f'<tr><th scope="row">{segment["start"]:.1f} to {segment["end"]:.1f} s</th><td>{escape(text)}</td></tr>'
        for segment, text in list(zip(segments, leading, strict=True))[:MOST_ROWS]
    )
    more = f", the first {MOST_ROWS} of {len(segments)}" if len(segments) > MOST_ROWS else ""
    table = f"<table><caption>Answer in each window{more}</caption><tbody>{rows}</tbody></table>"
    what = "Values" if kind == "regression" else "Probabilities"
    alt = f"Line chart of {what.lower()} over {segments[-1]['end']:.1f} seconds; the table below has its values"
    chart = image_html(
        timeline(middles, values, segments[-1]["end"], what),
        alt,
        f"{what} in {len(segments)} windows, at their middles",
    )
    return f'<div class="ser">{chart}<details><summary>As a table</summary>{table}</details></div>'


def timeline(middles: list[float], values: dict[str, list[float]], end: float, what: str) -> bytes:
    """PNG of lines from 0 to `end` seconds. Named are those that lead somewhere, and a `FEW` in any case, but no more
    than there are `STYLES`; the others are grey."""
    leaders = {max(values, key=lambda name: values[name][row]) for row in range(len(middles))}
    order = sorted(values, key=lambda name: (name not in leaders, -max(values[name])))
    named = order[: min(len(STYLES), max(len(leaders), FEW))]
    figure = Figure(figsize=(4.4, 3.4), dpi=200, layout="constrained")
    axes = figure.add_subplot(xlabel="seconds", ylabel=what.lower(), xlim=(0, end))
    for name, (dashes, marker) in zip(named, STYLES, strict=False):
        axes.plot(middles, values[name], dashes, marker=marker, linewidth=2, label=name, zorder=3)
    for number, name in enumerate(others := order[len(named) :]):
        axes.plot(middles, values[name], color="0.7", linewidth=1, label=None if number else f"{len(others)} others")
    if what == "Probabilities":
        axes.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return png(figure)


def spectrogram_html(samples: np.ndarray, rate: int) -> str:
    """Waveform and mel spectrogram of a clip."""
    extractor = SerSpectrogramFeatureExtractor(rate, trim_db=None, hop_length=max(100, len(samples) // 4000))
    mel = extractor(samples)["input_features"][0].T
    figure = Figure(figsize=(4.4, 3.4), dpi=200, layout="constrained")
    waveform, rows = figure.subplots(2, height_ratios=(1, 2))
    draw_waveform(waveform, samples, rate)
    draw_rows(rows, mel, extractor.hop_length / rate)
    rows.set(title=f"{len(mel)} mel bands, 0 to {rate / 2000:g} kHz", xlabel="seconds", ylabel="band")
    alt = f"Waveform and mel spectrogram of the clip, {len(samples) / rate:.1f} seconds"
    return f'<div class="ser">{image_html(png(figure), alt, alt)}</div>'


# ---- the page


def page(pipe: SerPipeline, name: str, transcribe: Callable[[dict], dict] | None = None) -> "Blocks":
    """The page of a model under its `name`. `transcribe`, as `asr` of `SerPipeline`, fills an empty transcript."""
    import gradio as gr

    rate, kind = pipe.feature_extractor.sampling_rate, pipe.problem_type

    def failed(error: Exception) -> dict:
        """What the page shows: one line. A defect's traceback is on the server alone."""
        line = one_line(error) if isinstance(error, AudioInputError) else trouble(error)
        if line is None:
            traceback.print_exception(error)
        return {answer: error_html(line or "the server failed on this clip; its log says why"), times: "", spectrum: ""}

    def take(file: str | None) -> dict:
        empty = {clip: None, answer: "", times: "", spectrum: "", text: ""}
        try:
            return empty | {clip: samples_of(Path(file).read_bytes(), rate)} if file else empty
        except Exception as error:
            return empty | failed(error)

    def score(samples: np.ndarray | None, words: str, window_s: float, unsure_below: float) -> dict:
        try:
            return scored(samples, words, window_s, unsure_below)
        except Exception as error:
            return failed(error)

    def scored(samples: np.ndarray | None, words: str, window_s: float, unsure_below: float) -> dict:
        if samples is None:
            raise SerError("there is no clip that can be read: record one, or upload another file")
        if pipe.takes_text and not words.strip() and transcribe:
            words = without_control_tokens(transcribe({"array": samples.copy(), "sampling_rate": rate})["text"])
        scores, segments, of = recognise(pipe, samples, words.strip() or None, window_s, unsure_below)
        return {
            answer: answer_html(scores, kind, of),
            times: timeline_html(segments, kind),
            spectrum: spectrogram_html(samples, rate),
            text: words,
        }

    with gr.Blocks(title=f"Emotions of speech: {name}", delete_cache=(10, KEPT_S)) as blocks:
        gr.HTML(
            f'<div class="ser"><h1>Emotions of speech</h1><p>Model: {escape(name)}. It guesses which emotion a voice '
            "expresses; it does not know what a person feels. Clips are scored on the machine that serves this page, "
            "and removed after about a minute.</p></div>"
        )
        clip = gr.State(time_to_live=3600)
        with gr.Row():
            with gr.Column(min_width=300):
                audio = gr.Audio(
                    label="Clip: record or upload", sources=["upload", "microphone"], type="filepath", buttons=[]
                )
                text = gr.Textbox(
                    label="Transcript (optional)",
                    info="Left empty, it is transcribed" if transcribe else "Left empty, the sound alone is scored",
                    visible=pipe.takes_text,
                )
                window = gr.Slider(0.5, 10, WINDOW_S, step=0.5, label="Seconds of a window in the chart")
                unsure = gr.Slider(
                    0,
                    1,
                    0.0,
                    step=0.01,
                    label="Answer “unsure” below this probability",
                    info="0: always answer",
                    visible=kind == SINGLE,
                )
                button = gr.Button("Recognise emotion", variant="primary")
            with gr.Column(min_width=300):
                answer = gr.HTML()
        with gr.Row():
            with gr.Column(min_width=300):
                times = gr.HTML()
            with gr.Column(min_width=300):
                spectrum = gr.HTML()
        # One after another, so that a click waits for the clip.
        private = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": "clip"}
        audio.change(take, audio, {clip, answer, times, spectrum, text}, **private)
        button.click(score, [clip, text, window, unsure], {answer, times, spectrum, text}, **private)
    return blocks


def serve(blocks: "Blocks", **options) -> None:
    """Serve a page until it is stopped. `options` are of gradio's `launch`, such as the address."""
    import gradio as gr

    # No font from Google's servers; the default's orange and greys have too little contrast.
    theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
    fixed = {"share": False, "footer_links": [], "max_file_size": MOST_BYTES, "ssr_mode": False, "pwa": False}
    blocks.launch(theme=theme, css=CSS, **fixed, **options)
