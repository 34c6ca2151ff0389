"""The page of `ser-hf check` about one's own data: the report of `check_own.report_of` as text."""

from collections import Counter

from ..data.acoustics import MEASURES
from ..evaluation.bootstrap import RIGHT, SPREAD
from ..evaluation.tables import text_table
from .check import listed

MOST_SPEAKERS = 8  # columns of the table of classes


def lines(report: dict) -> list[str]:
    """The page."""
    sizes = f"{report['usable']} of {report['rows']} rows can be used, {report['speakers']} speakers"
    out = [f"{report['corpus']} ({report['labels']}): {sizes}, {report['hours']:.2f} h"]
    out += [f"  {remark}" for remark in report["remarks"]]
    if report["classes"]:
        out += ["", *class_table(report["classes"])]
    if report["splits"]:
        rows = [[part, *sizes.values()] for part, sizes in report["splits"].items()]
        out += ["", *text_table(["split", "clips", "speakers"], rows)]
    sound = report["sound"].get("quantiles", {})
    out += quantile_table("label", report["values"])
    out += quantile_table("sound", {f"{name} ({MEASURES[name]})": values for name, values in sound.items()})
    out += [f"{number} clips: {header}" for header, number in list(report["sound"].get("headers", {}).items())[:5]]
    for needs_you, head in ((True, "needs you"), (False, "to know")):
        some = [one for one in report["findings"] if one["needs_you"] == needs_you]
        out += ["", f"{head}:"] if some else []
        for one in some:
            out += [f"  {line}" for line in listed(one["what"], one["items"], most=3)]
            out += [f"    -> {one['todo']}"] if one["todo"] else []
    if report["test"]:
        out += ["", "what a test can tell:", *(f"  {line}" for line in protocol_lines(report["test"]))]
    number = report["needs_you"]
    hint = "; --fix OUT writes a table without what cannot be used" if number else ""
    return [*out, "", f"needs you: {number}{hint}" if number else "nothing needs you"]


def quantile_table(what: str, table: dict[str, list[float | None]]) -> list[str]:
    """A table of quantiles by name, after an empty line; nothing without rows."""
    rows = [[name, *("-" if x is None else f"{x:.4g}" for x in values)] for name, values in table.items()]
    return ["", *text_table([what, "least", "5 %", "median", "95 %", "most"], rows)] if rows else []


def class_table(classes: dict[str, dict[str, int]]) -> list[str]:
    """Classes by speakers: those of the most clips, then all others."""
    totals = sum(map(Counter, classes.values()), Counter())
    del totals[""]
    names = [name for name, _ in totals.most_common(MOST_SPEAKERS)]
    others, unknown = len(totals) - len(names), any("" in counts for counts in classes.values())
    names = names if others else sorted(names)
    heads = ["label", "clips", "speakers", *(name[:12] for name in names)]
    heads += [f"{others} others"] * (others > 0) + ["unknown"] * unknown
    table = []
    for word, counts in classes.items():
        clips, shown, nobody = sum(counts.values()), [counts.get(name, 0) for name in names], counts.get("", 0)
        row = [word, clips, len(counts.keys() - {""}), *shown]
        table.append(row + [clips - sum(shown) - nobody] * (others > 0) + [nobody] * unknown)
    return text_table(heads, table)


def protocol_lines(test: dict) -> list[str]:
    """What a test by the protocol can and cannot tell."""
    folds, interval = test["folds"], test["interval"]
    speakers, clips = (sum(column) for column in zip(*folds, strict=True))
    least = min(n for n, _ in folds)
    who = f"{least} speakers" if least > 1 else "one speaker" if least else "unknown speakers"
    size = f"{len(folds)} folds, the smallest tests {who}" if len(folds) > 1 else f"one test set of {who}"
    out = [f"protocol {test['protocol']}: {size}; {clips} clips of {speakers} speakers are tested in all"]
    if test["warning"]:
        out.append(f"{test['warning']}: figures of voices that may have been trained on say little of others")
    if interval:
        low, high = interval
        out.append(
            f"a system with UAR {RIGHT:.2f} would be reported with about [{low:.2f}, {high:.2f}] over all folds: a "
            f"figure of other work less than {(high - low) / 2:.2f} away is not different (simulated; speakers differ "
            f"by {SPREAD:.2f})"
        )
    if 0 < speakers < 10:
        out.append(f"{speakers} speakers say little of others: each new speaker helps more than more clips of these")
    if len(folds) > 1:
        out.append("one fold alone says much less: ser-hf cv runs all")
    return out
