"""A fake CREMA-D: WAV and MP3, tables with ties and gaps, the silent clip, the renamed clip, a git-lfs pointer."""

from pathlib import Path

import numpy as np
import soundfile as sf

from . import voice

# clip: (voice votes A D F H N S, VoiceVote), invented
VOTES = {
    "1001_IEO_ANG_HI": ((6, 1, 0, 0, 3, 0), "A"),
    "1001_IEO_ANG_MD": ((4, 4, 0, 0, 1, 0), "A:D"),
    "1001_DFA_DIS_XX": ((5, 3, 0, 0, 2, 0), "A"),
    "1002_TIE_FEA_LO": ((0, 0, 7, 0, 2, 1), "F"),
    "1002_IOM_HAP_XX": ((0, 0, 0, 4, 5, 0), "N"),
    "1002_IWW_NEU_XX": ((0, 0, 0, 1, 9, 0), "N"),
    "1040_ITH_SAD_XX": ((0, 0, 2, 0, 3, 4), "S"),
    "1040_TAI_HAP_XX": ((0, 0, 0, 8, 1, 0), "H"),  # no audio
    "1076_MTI_SAD_XX": ((0, 0, 0, 0, 6, 2), "N"),  # silent
    "1076_WSI_NEU_XX": ((0, 0, 0, 0, 8, 0), "N"),  # a git-lfs pointer
    "1091_ITS_FEA_XX": ((0, 3, 3, 0, 3, 0), "D:F:N"),
}
PEOPLE = {"1001": (33, "Female"), "1002": (44, "Male"), "1040": (55, "Female"), "1076": (66, "Male")}  # not 1091


def make(root: Path) -> None:
    audio = root / "AudioWAV"
    absent = ("1040_TAI_HAP_XX", "1076_MTI_SAD_XX", "1076_WSI_NEU_XX")
    names = [name for name in VOTES if name not in absent] + ["1002_TSI_ANG_XX"]  # the last is in no table
    for seed, name in enumerate(names):
        voice(audio / f"{name.replace('1040_ITH_SAD_XX', '1040_ITH_SAD_X')}.wav", 0.1, seed=seed)
    sf.write(audio / "1076_MTI_SAD_XX.wav", np.zeros(1600), 16000, subtype="PCM_16")
    (audio / "1076_WSI_NEU_XX.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (audio / "._1001_IEO_ANG_HI.wav").write_bytes(b"\x00\x05\x16\x07")
    for seed, name in enumerate(("1001_IEO_ANG_HI", "1003_IEO_SAD_LO")):  # the second has no WAV
        voice(root / f"AudioMP3/{name}.mp3", 0.1, seed=seed, format="MP3", subtype="MPEG_LAYER_III")
    _tables(root)


def _tables(root: Path) -> None:
    (root / "processedResults").mkdir()
    people = ['"ActorID","Age","Sex","Race","Ethnicity"']
    people += [f'{actor},{age},"{sex}","Unknown","Not Hispanic"' for actor, (age, sex) in PEOPLE.items()]
    (root / "VideoDemographics.csv").write_text("\n".join(people) + "\n")
    summary = ['"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"']
    for number, (name, (_, vote)) in enumerate(VOTES.items(), 1):
        summary.append(f'"{number}","{name}","{vote}","50","H","60","H","70"')
    (root / "processedResults/summaryTable.csv").write_text("\n".join(summary) + "\n")
    counts = ['"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote"']
    for modality in (1, 2, 3):  # voice, face, both; the latter two all heard "happy"
        for number, (name, (votes, _)) in enumerate(VOTES.items(), 1):
            row = votes if modality == 1 else (0, 0, 0, 9, 0, 0)
            counts.append(f'"{modality}{number:05d}",{",".join(map(str, row))},"{name}",{sum(row)},0.5,"N"')
    (root / "processedResults/tabulatedVotes.csv").write_text("\n".join(counts) + "\n")


EXPECTED = {
    "6class": {
        "utterances": 9,
        "outside_labels": 0,
        "problems": 2,
        "per_label": {"angry": 3, "disgust": 1, "fearful": 2, "happy": 1, "neutral": 1, "sad": 1},
    },
    # The silent clip is sad, so only the pointer is a problem here.
    "3class": {
        "utterances": 5,
        "outside_labels": 4,
        "problems": 1,
        "per_label": {"angry": 3, "happy": 1, "neutral": 1},
    },
    # Left out: two ties and the clip in no table. Problems: silent, pointer, and the vote whose clip is not there.
    "voice_vote": {
        "utterances": 6,
        "outside_labels": 3,
        "problems": 3,
        "per_label": {"angry": 2, "disgust": 0, "fearful": 1, "happy": 0, "neutral": 2, "sad": 1},
    },
}
ROWS = {
    "1001_IEO_ANG_HI": {
        "label": "angry",
        "text": "It's eleven o'clock",
        "speaker": "1001",
        "gender": "female",
        "age": 33.0,
        "language": "en",
        "intensity": "high",
        "votes": [6.0, 1.0, 0.0, 0.0, 3.0, 0.0],
    },
    "1002_TIE_FEA_LO": {"label": "fearful", "text": "That is exactly what happened", "intensity": "low"},
    "1001_IEO_ANG_MD": {"label": "angry", "intensity": "medium"},
    "1040_ITH_SAD_XX": {
        "label": "sad",
        "text": "I think I have a doctor's appointment",
        "intensity": "unspecified",
        "votes": [0.0, 0.0, 2.0, 0.0, 3.0, 4.0],
    },
    "1002_TSI_ANG_XX": {"label": "angry", "gender": "male", "age": 44.0, "votes": None},
    "1091_ITS_FEA_XX": {"label": "fearful", "gender": None, "age": None, "votes": [0.0, 3.0, 3.0, 0.0, 3.0, 0.0]},
}
