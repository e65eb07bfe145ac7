"""Tables and a figure of the records, put in benchmarks/README.md and docs/benchmarks.md.

python benchmarks/report.py
"""

import json
import pathlib

import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
DOCS = HERE.parent / "docs"
MARK = "<!-- from here on by benchmarks/report.py -->"
# Workload, what its size is called, and the figure's title of it.
PANELS = {
    "toy limits": ("lanes", "limits, paper's toy"),
    "toy paths": ("lanes", "paths, paper's toy"),
    "fully-connected, L = 2": ("d", "fully-connected, L = 2"),
    "convolution by FFT": ("d", "convolution by FFT"),
}


def records():
    return [json.loads(path.read_text()) for path in sorted(HERE.glob("records/*.json"))]


def table(record):
    """Markdown: a line for each contender and size."""
    lines = [
        f"### {record['workload'].capitalize()}",
        "",
        f"{record['device']}, {record['cores']} cores, {record['dtype']}.",
        "",
        "| size | contender | a lane | spread | × first | error | first call | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in record["entries"]:
        sizes = ", ".join(f"{v}" if isinstance(v, str) else f"{k} = {v:,}" for k, v in entry["sizes"].items())
        for row in entry["rows"]:
            lines.append(f"| {sizes} | {line(row)} |")
            sizes = ""
    dates = {entry["date"] for entry in record["entries"]}
    versions = record["entries"][-1]["versions"]
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join([*lines, "", f"*{' and '.join(sorted(dates))}; {made_with}.*", ""])


def line(row):
    spread = (row["high"] - row["low"]) / 2 / row["seconds"]
    error = "" if row["error"] is None else f"{row['error']:.0e}"
    notes = [row["note"]] if row["note"] else []
    if row["unanswered"]:
        notes.append(f"{row['unanswered']} of {row['lanes']} unanswered")
    return (
        f"{row['contender']} | {span(row['seconds'] / row['lanes'])} | ±{spread:.0%} | {row['ratio']:.3g} | {error} | "
        f"{span(row['first'])} | {'; '.join(notes)}"
    )


def span(seconds):
    """A time in the unit that suits it."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-9:.3g} ns"


def kind(contender):
    """A contender without its method and tolerance, so that it has one curve."""
    return "SciPy" if contender.startswith("SciPy") else contender.split(", 1e-")[0].split(", tolerance")[0]


def figure(found, path):
    """Seconds a lane against size, a panel for each workload that has several sizes."""
    chosen = [record for record in found if record["workload"] in PANELS and len(record["entries"]) > 2]
    if not chosen:
        return False
    fig, axes = plt.subplots(
        1, len(chosen), figsize=(max(5.5, 3.2 * len(chosen)), 3.6), layout="constrained", squeeze=False
    )
    colours: dict[str, str] = {}  # of a contender the same in all panels
    for ax, record in zip(axes[0], chosen, strict=True):
        name, title = PANELS[record["workload"]]
        curves = {}
        for entry in sorted(record["entries"], key=lambda entry: entry["sizes"][name]):
            for row in entry["rows"]:
                x, y = curves.setdefault(kind(row["contender"]), ([], []))
                x.append(entry["sizes"][name])
                y.append(row["seconds"] / row["lanes"])
        for label, (x, y) in curves.items():
            colour = colours.setdefault(label, f"C{len(colours)}")
            ax.loglog(x, y, "o-", markersize=3, linewidth=1, label=label, color=colour)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(xlabel={"lanes": "lanes in a batch", "d": "inputs d"}[name], ylabel="seconds a lane", title=title)
        ax.title.set_fontsize(9)
    handles = {line.get_label(): line for ax in axes[0] for line in ax.get_lines()}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    fig.savefig(path, dpi=150)
    return True


def main():
    found = records()
    tables = "\n".join(table(record) for record in found)
    pictured = figure(found, DOCS / "figures" / "benchmarks.png")
    for page, figures in ((HERE / "README.md", "../docs/figures"), (DOCS / "benchmarks.md", "figures")):
        head = page.read_text(encoding="utf-8").split(MARK)[0]
        picture = f"![Seconds a lane against size]({figures}/benchmarks.png)\n\n" if pictured else ""
        page.write_text(f"{head}{MARK}\n\n{picture}{tables}", encoding="utf-8")


if __name__ == "__main__":
    main()
