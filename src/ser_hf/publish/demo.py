"""Serve a page that recognises emotions: record or upload a clip, see its emotions over time.

    ser-hf demo --model runs/demo
    ser-hf demo --model you/fusion --asr openai/whisper-tiny.en

The page is at http://127.0.0.1:7860, for this machine alone: nothing is sent elsewhere, and clips are removed.
`ser-hf push space` publishes the same page. Needs gradio: pip install "ser-hf[demo]"
"""

import os
import signal
import sys
import tempfile
from importlib.util import find_spec

from ..cli.console import Parser
from ..errors import SerError, one_line
from ..files import check_checkpoint, without_path
from ..training.arguments import converter
from ..training.run import say

PORT = 7860


def speech_recogniser(name: str):
    """`pipeline("automatic-speech-recognition")` of a model, of clips of any length. Raises SerError: there is none."""
    from transformers import pipeline

    check_checkpoint(name, "--asr")
    try:
        return pipeline("automatic-speech-recognition", model=name, chunk_length_s=30)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # of an encoder without a vocabulary
        raise SerError(f"--asr {name}: no speech recogniser ({one_line(error)}); such as openai/whisper-tiny") from None


def main(argv: list[str]) -> int:
    parser = Parser("demo", __doc__)
    parser.add_argument("--model", required=True, help="fine-tuned model: folder or Hub id")
    text = "speech recogniser that fills the transcript of a fusion model: folder or Hub id"
    parser.add_argument("--asr", metavar="MODEL", help=text)
    port = converter(int, {"least": 1, "most": 65535})
    parser.add_argument("--port", type=port, default=PORT, help=f"port on 127.0.0.1 (default: {PORT})")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")
    args = parser.parse_args(argv)
    if find_spec("gradio") is None:
        raise SerError('the page needs gradio, which is not installed: pip install "ser-hf[demo]"')

    from ..cli.predict import load
    from .page import page, serve

    pipe = load(args.model, args.trust_remote_code)
    if args.asr and not pipe.takes_text:
        raise SerError(f"--asr {args.asr}: {args.model} takes no text; leave it out")
    transcribe = speech_recogniser(args.asr) if args.asr else None
    name = without_path(args.model)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is removed
    with tempfile.TemporaryDirectory(prefix="ser-hf-demo-") as folder:  # of the uploads: nothing is left of them
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = page(pipe, name, transcribe)
        say(f"the page of {name}: http://127.0.0.1:{args.port} (Control-C ends it)")
        try:
            serve(blocks, server_name="127.0.0.1", server_port=args.port, quiet=True)
        except OSError as error:
            if "empty port" not in str(error):
                raise
            raise SerError(f"--port {args.port}: in use; choose another, or end the program that has it") from None
    return 0
