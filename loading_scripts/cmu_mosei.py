"""CMU-MOSEI: sentences of YouTube monologues, rated for sentiment and for six emotions at once.

23,259 labelled segments of 3,293 videos, 49.1 h, cut from the full recordings (`Raw/Audio/Full/WAV_16000/<video>.wav`)
by time: every row holds its segment alone. Each was rated by about three people: sentiment from -3 to 3, every emotion
from 0 to 3, and the label is their mean. Labels are read from the first of these that is there:

- `CMU_MOSEI_Labels.csd`, the official means (HDF5), which numbers segments by its own order;
- `Raw/Labels/*.csv`, the raw MTurk answers, which number them as the transcripts do;
- `label.csv`, MMSA's table of clips that are cut already, `Raw/<video>/<clip>.wav`: sentiment only.
"""

import json
import math
import re
from pathlib import Path

import pandas as pd

from ser_hf.data.corpus import Protocol, SpeechCorpus
from ser_hf.data.schema import CorpusCard, LabelConfig, SerError

SDK = "https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK"
# Target -> MTurk's column, in the order of the .csd's vectors (SDK, standard_datasets/CMU_MOSEI/README.md).
ANSWERS = {
    "sentiment": "Answer.sentiment",
    "happy": "Answer.happiness",
    "sad": "Answer.sadness",
    "angry": "Answer.anger",
    "surprised": "Answer.surprise",
    "disgust": "Answer.disgust",
    "fearful": "Answer.fear",
}
EMOTIONS = tuple(ANSWERS)[1:]
ALL = {"": 23259}  # labelled segments
VIDEO, CLIP = "Input.VIDEO_ID", "Input.CLIP"
FOLDS = {  # video -> part; the SDK's standard folds, which leave 68 of the labelled videos out
    video: part
    for part, videos in json.loads(Path(__file__).with_name("cmu_mosei_folds.json").read_text())["folds"].items()
    for video in videos.split()
}
RECORDINGS = ("Audio/Full/WAV_16000", "Audio/WAV_16000")
TRANSCRIPTS = ("Transcript/Segmented/Combined", "Transcript/Combined")
PARTS = ("Raw", "Audio", "Transcript", "Labels")  # folders of a corpus, one of which may be named as its root
TOLERANCE = 0.01  # seconds: transcripts and .csd agree to the millisecond; no two segments of a video are this close

# video, clip, start, end, text: neither the id (`_0efYOjQYRc`, `-3g5yACwYnA`) nor the text (`_____`) may be split at _
NUMBER = r"(-?\d+\.?\d*(?:e-?\d+)?)"
LINE = re.compile(rf"(.+?)___(\d+)___{NUMBER}___{NUMBER}___(.*)$")


def _folder(root: Path, *names: str) -> Path:
    """The first of these folders that is there, in `Raw/` or (copies that renamed it) without."""
    places = [root / raw / name for raw in ("Raw", "") for name in names]
    return next((place for place in places if place.is_dir()), places[0])


def _head(path: Path) -> tuple[str, str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline(), file.readline()


def label_files(root: Path) -> list[Path]:
    """The files that hold the labels of a corpus at `root`, all of one kind; empty if this is not the corpus."""
    places = [root / name / "CMU_MOSEI_Labels.csd" for name in ("", "Raw", "csd", "labels", "Labels", "Raw/Labels")]
    if csd := [path for path in places if path.is_file()]:
        return csd[:1]
    tables = sorted(_folder(root, "Labels").glob("*.csv"))
    if mturk := [path for path in tables if VIDEO in _head(path)[0]]:
        return mturk
    for path in (*root.glob("label.csv"), *root.glob("Raw/label.csv")):
        header, first = _head(path)
        # MOSI's and SIMS's tables look the same; their videos are in no fold of MOSEI.
        if header.startswith("video_id,clip_id,") and first.split(",")[0] in FOLDS:
            return [path]
    return []


def transcripts(root: Path) -> dict[str, dict[int, tuple[float, float, str]]]:
    """Video -> clip number -> start, end and text. A few files are binary or a lone number: no line of them matches."""
    clips = {}
    for path in sorted(_folder(root, *TRANSCRIPTS).glob("*.txt")):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if match := LINE.match(line):
                _, clip, start, end, text = match.groups()
                times = max(0.0, float(start)), float(end)  # 239 segments start before their recording does
                clips.setdefault(path.stem, {}).setdefault(int(clip), (*times, text.strip()))
    return clips


def _row(video: str, clip: str, values, **columns) -> dict:
    # A mean of no answers is no label.
    scores = {name: None if math.isnan(value) else float(value) for name, value in zip(ANSWERS, values, strict=True)}
    return {"id": f"{video}{clip}", "video": video, "scores": scores, "text": None, **columns}


def read_csd(path: Path, root: Path) -> list[dict]:
    """The official means; each gets the text and the number of the transcript's line with its times, never of its
    position: the .csd leaves unlabelled segments out and is not in order of time."""
    try:
        import h5py
    except ImportError:
        raise SerError(f"{path} is an HDF5 file, and h5py is not installed: pip install h5py") from None
    texts, wavs, rows = transcripts(root), _folder(root, *RECORDINGS), []
    try:
        with h5py.File(path, "r") as file:
            data = file["All Labels/data"]
            labels = {video: (data[video]["features"][:], data[video]["intervals"][:]) for video in data}
    except (OSError, KeyError) as error:
        raise SerError(f"{path} is not MOSEI's label file ({error}): download it again, see {SDK}") from None
    for video, (features, intervals) in labels.items():
        lines = texts.get(video, {})
        for position, (values, (start, end)) in enumerate(zip(features, intervals, strict=True)):
            start, end = max(0.0, float(start)), float(end)
            distance = {n: max(abs(line[0] - start), abs(line[1] - end)) for n, line in lines.items()}
            nearest = min(distance, key=distance.get, default=None)
            found = nearest is not None and distance[nearest] <= TOLERANCE
            text = lines.pop(nearest)[2] if found else None
            clip = f"_{nearest}" if found else f"[{position}]"  # as the SDK calls it
            times = {"cut": True, "start": start, "end": end}
            rows.append(_row(video, clip, values, audio=wavs / f"{video}.wav", text=text, **times))
    return rows


def read_mturk(paths: list[Path], root: Path) -> list[dict]:
    """Means over the raters. `Input.CLIP` is the transcript's number (SDK issue 160), so that its line has the times.
    A rater may have left answers empty: the mean is over the others."""
    wanted = {VIDEO, CLIP, *ANSWERS.values()}
    kind = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "encoding_errors": "replace"}
    tables = [pd.read_csv(path, usecols=wanted.__contains__, on_bad_lines="warn", **kind) for path in paths]
    table = pd.concat(tables).reindex(columns=[VIDEO, CLIP, *ANSWERS.values()])
    table[VIDEO] = table[VIDEO].str.split("/").str[-1].str.strip()  # one file writes `dir/<video>`
    table[[CLIP, *ANSWERS.values()]] = table[[CLIP, *ANSWERS.values()]].apply(pd.to_numeric, errors="coerce")
    means = table[table[VIDEO] != ""].groupby([VIDEO, CLIP])[list(ANSWERS.values())].mean()  # answers to no clip go
    texts, wavs, rows = transcripts(root), _folder(root, *RECORDINGS), []
    for (video, clip), *values in means.itertuples(name=None):
        columns = {"audio": wavs / f"{video}.wav"}
        if line := texts.get(video, {}).get(int(clip)):
            columns |= {"cut": True, "start": line[0], "end": line[1], "text": line[2]}
        else:
            columns["problem"] = f"{video}_{int(clip)}: labelled, but no line of its transcript says when it is"
        rows.append(_row(video, f"_{int(clip)}", values, **columns))
    return rows


def read_mmsa(path: Path) -> list[dict]:
    """MMSA's clips. Its media are mp4, which libsndfile does not read: the user extracts the sound once."""
    media = path.parent if path.parent.name == "Raw" else path.parent / "Raw"
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", encoding_errors="replace")
    sentiment = pd.to_numeric(table["label"], errors="coerce")
    rows = []
    for video, clip, text, value in zip(table["video_id"], table["clip_id"], table["text"], sentiment, strict=True):
        wav, mp4 = media / video / f"{clip}.wav", media / video / f"{clip}.mp4"
        problem = None
        if mp4.exists() and not wav.exists():
            problem = f"{mp4}: a video; extract its sound first: ffmpeg -i {mp4.name} -ac 1 -ar 16000 {wav.name}"
        values = [value, *[math.nan] * len(EMOTIONS)]
        rows.append(_row(video, f"_{clip}", values, audio=wav, text=text.strip() or None, problem=problem))
    return rows


def emotion(scores: dict[str, float | None]) -> str | None:
    """The one emotion that is present (above 0, the SDK's rule), neutral if none is, None if several are or unknown."""
    present = [name for name in EMOTIONS if (scores[name] or 0) > 0]
    if len(present) > 1 or any(scores[name] is None for name in EMOTIONS):
        return None
    return present[0] if present else "neutral"


class CmuMosei(SpeechCorpus):
    CARD = CorpusCard(
        title="CMU-MOSEI (Multimodal Opinion Sentiment and Emotion Intensity)",
        languages=("en",),
        licence="for research (YouTube videos; the terms of the data are not published with it)",
        redistributable=False,
        homepage="http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/",
        how_to_get=f"Download CMU_MOSEI.zip (raw data) and CMU_MOSEI_Labels.csd, see {SDK}, and unpack the zip.",
        layout=(
            "Raw/Audio/Full/WAV_16000/<video>.wav\nRaw/Transcript/Segmented/Combined/<video>.txt\n"
            "CMU_MOSEI_Labels.csd (needs h5py) or Raw/Labels/*.csv\n"
            "or MMSA's label.csv with Raw/<video>/<clip>.wav (sentiment only)"
        ),
        citation=(
            "Bagher Zadeh et al. (2018), Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable "
            "Dynamic Fusion Graph, ACL"
        ),
        utterances=23259,
        speakers=3293,
        hours=49.1,
        folders=("CMU_MOSEI", "CMU-MOSEI", "MOSEI"),
        notes=(
            "Speakers are videos: nobody published who speaks in which, and a person may have several. Sentiment is "
            "from -3 to 3, every emotion from 0 to 3. 7class and 4class take only the segments with one emotion "
            "present, or none (neutral). MMSA's table has fewer segments, and sentiment alone."
        ),
    )
    BUILDER_CONFIGS = [
        LabelConfig("emotions", targets=EMOTIONS, problem_type="regression", counts=ALL),
        LabelConfig("emotions_multi_label", targets=EMOTIONS, problem_type="multi_label_classification", counts=ALL),
        LabelConfig("sentiment", targets=("sentiment",), problem_type="regression", counts=ALL),
        LabelConfig("7class", label_map={word: word for word in (*EMOTIONS, "neutral")}),  # counts: not published
        LabelConfig("4class", label_map={word: word for word in ("angry", "happy", "neutral", "sad")}),
    ]
    DEFAULT_CONFIG_NAME = "emotions"
    OPTIONAL = ("language", "start", "end", "split")
    PROTOCOLS = (
        Protocol(
            "official",
            "CMU-MultimodalSDK's standard folds by video; a video is taken for a speaker",
            by="split",
            folds=(("test",),),
            validation=("validation",),
        ),
    )

    @classmethod
    def root(cls, folder: Path) -> Path | None:
        # The .csd is beside Raw/: go up first, or its labels would be missed.
        while folder.name in PARTS:
            folder = folder.parent
        places = (folder, *sorted(place for place in folder.glob("*") if place.is_dir()))
        return next((place for place in places if label_files(place)), None)

    def utterances(self, root: Path) -> list[dict]:
        paths = label_files(root)
        if paths[0].suffix == ".csd":
            rows = read_csd(paths[0], root)
        elif paths[0].name != "label.csv":
            rows = read_mturk(paths, root)
        elif self.config.name == "sentiment":
            rows = read_mmsa(paths[0])
        else:
            raise SerError(f"{paths[0]} (MMSA's) has no emotions, so not {self.config.name!r}: use --labels sentiment")
        for row in rows:
            row["emotion"] = emotion(row["scores"])
            row["split"] = FOLDS.get(row["video"])
            row["speaker"] = row["video"]  # monologues: one speaker per video is the field's convention
            row["language"] = "en"
            if self.config.problem_type == "multi_label_classification":
                row["scores"] = {name: value if value is None else value > 0 for name, value in row["scores"].items()}
        return rows
