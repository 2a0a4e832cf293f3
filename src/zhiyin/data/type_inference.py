"""Types of columns of text, inferred from all of their cells.

Ids become integers only where every one of them is an integer, so that "005" is not 5 and one "7.5" does not turn 10
into 10.0. Numbers may have decimal commas, currencies and units ("3,50", "$3.99", "4 stars", "—"), which is noted.
"""

from __future__ import annotations

import dataclasses

import polars as pl

from zhiyin.core.booleans import BOOLEANS
from zhiyin.data.boolean_columns import is_boolean, to_booleans
from zhiyin.data.column_names import is_amount
from zhiyin.data.read_assumptions import Dialect, Findings

# Words that denote a missing value; "nan" and the like also where a column is text.
ABSENT = ("nan", "null", "none", "na", "n/a", "#n/a", "<na>", "\\n", "nil", "(null)")
DASHES = ("-", "--", "—", "–", "?", ".", "..", "*", "unknown", "missing", "tbd", "#value!", "#div/0!", "#ref!")
_IN_TEXT = ("nan", "null", "none", "n/a", "#n/a", "<na>", "\\n", "(null)")
_WHOLE_NUMBER = r"^(?:0|-?[1-9]\d*)(?:\.0+)?$"
LEADING_ZERO = r"^[+-]?0\d|^\+\d|^-0(?:\.0*)?$"
_MIN_NUMBER_SHARE = 0.95  # of numbers, from which on a column with a few words is one of numbers
_MIN_NUMBER_SHARE_OF_SAMPLE = 0.8  # the same of a sample, which only shows what the column may be
_CURRENCY = r"[$€£¥₹₽₩₺฿¢元円]|(?:US|CA|AU|HK|NT|R)\$|(?:CN|JP)¥|USD|EUR|GBP|CNY|RMB|JPY|CHF|Rs\.?|kr\.?|zł"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2}(?:\.\d{3})+$"
_DECIMAL_COMMA = r",\d{1,2}$|,\d{4,}$|^0\d*,|^,"  # a comma that does not separate thousands
# Factors of units; "m", "b" and "t" only in a column with a "k", as they may be metres and the like elsewhere.
_SCALES = {
    "k": 1e3, "千": 1e3, "tsd": 1e3, "万": 1e4, "萬": 1e4, "mn": 1e6, "mio": 1e6, "亿": 1e8, "億": 1e8, "bn": 1e9,
    "mrd": 1e9,
}  # fmt: skip
_DOUBTFUL_SCALES = {"m": 1e6, "b": 1e9, "t": 1e12}
_TO_ASCII = dict(zip("０１２３４５６７８９．，％＋－（）￥＄／٠١٢٣٤٥٦٧٨٩", "0123456789.,%+-()¥$/0123456789"))
_STARS = r"^[★⭐]+☆*$"
_RATING_SCALE = r"(?:/|out of|of|von|sur)\s*(?:5|10|20|100)\b"
_ROUNDED_BY_SPREADSHEET = r"^\d(?:[.,]\d+)?E\+\d{2,3}$"
_NUMBER = r"\d[\d.,'’ \u00a0\u202f]*|[.,]\d+"


def infer_ids(text: pl.Series, dialect: Dialect | None = None, findings: Findings | None = None) -> pl.Series:
    """Ids as Int64 where all are whole numbers ("17850.0" is 17850), else as they are written; blanks are null.

    Words such as "NA" are ids among words, and missing among numbers. `findings`: takes what was decided.
    """
    dialect = dialect or Dialect()
    written, text = text.cast(pl.String), _stripped(text)
    if findings is not None:
        _note_changed_ids(written, text, findings)
    words = tuple(word.lower() for word in dialect.missing) if dialect.missing is not None else ABSENT
    if dialect.missing is not None:
        text = text.set(text.str.to_lowercase().is_in(words), None)
    else:
        text = text.set(text == "\\N", None)
    if text.name in dialect.text:
        return text
    whole = text.str.contains(_WHOLE_NUMBER)
    if not whole.all():
        if not whole.any():
            return text
        others = text.filter(~whole).unique()
        if not others.str.to_lowercase().is_in(words).all():
            return text
        numbers = text.set(~whole, None)
    else:
        numbers = text
    integers = numbers.str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)
    if integers.null_count() != numbers.null_count():
        return text
    if findings is not None:
        pointed = numbers.filter(numbers.str.contains(".", literal=True).fill_null(False))
        if len(pointed):
            findings.note(
                f"{text.name}: {pointed[0]!r} and the like are read as {str(pointed[0]).partition('.')[0]} "
                f'(keep them as they are written: text = ["{text.name}"] under [read])'
            )
    return integers


def _note_changed_ids(written: pl.Series, text: pl.Series, findings: Findings) -> None:
    """Say where blanks around ids are cut off, and where a spreadsheet has rounded them: "8.90E+12"."""
    padded = written.filter((written != text).fill_null(False))
    if len(padded):
        findings.note(f"{text.name}: blanks around {len(padded):,} ids are cut off, such as {padded[0][:60]!r}")
    rounded = text.filter(text.str.contains(_ROUNDED_BY_SPREADSHEET).fill_null(False))
    if len(rounded):
        findings.note(
            f"{text.name}: {len(rounded):,} ids such as {rounded[0]!r} were rounded by a spreadsheet, so that several "
            "may have become one: export the column again as text"
        )


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Numbers of a column of text.

    Parameters
    ----------
    values: Float64, null where a cell is missing or no number.
    bad: bool[n], cells that are something else than a number or a word for a missing one.
    findings: what was decided.
    """

    values: pl.Series
    bad: pl.Series
    findings: Findings


def parse_numbers(
    text: pl.Series, dialect: Dialect | None = None, *, semicolons: bool = False, fractions: bool = False
) -> Numbers:
    """Numbers of a column of text, as people write them.

    Parameters
    ----------
    semicolons: whether semicolons separate the columns of the file, as where the comma is the decimal mark.
    fractions: whether other cells of the column are written with a decimal point.
    """
    dialect, findings = dialect or Dialect(), Findings()
    text = _stripped(text)
    name = text.name
    values = text.cast(pl.Float64, strict=False)
    point = dialect.decimal or _point(text, values, findings, semicolons)
    if point == ",":  # then "1.234" is a thousand
        dialect = dataclasses.replace(dialect, decimal=",")
        values = values.set(text.str.contains(_THOUSANDS).fill_null(False), None)
    odd = text.is_not_null() & (values.is_null() | ~values.is_finite().fill_null(True))
    none = pl.repeat(False, len(text), dtype=pl.Boolean, eager=True)
    if not odd.any():
        return Numbers(values, none, findings)
    rows = odd.arg_true()
    cells = text.gather(rows)
    absent = _is_absent(cells, dialect)
    if absent.any():
        examples = _examples(cells.filter(absent))
        findings.note(f"{name}: {_cells(int(absent.sum()))} {examples}, read as missing")
    flags = cells.filter(~absent)
    if len(flags) and is_boolean(flags):
        findings.note(f"{name}: {_flags(flags)} are read as 1 and 0")
        return Numbers(values.scatter(rows, to_booleans(cells).cast(pl.Float64)), none, findings)
    pointed = text.filter(~odd & text.str.contains(r"\.").fill_null(False))
    thousands = pointed.str.contains(_THOUSANDS)
    read, decimal = _written_numbers(
        cells.set(absent, None), name, dialect, findings, semicolons, fractions or not bool(thousands.all())
    )
    values = values.scatter(rows, read)
    if decimal == "," and len(pointed) and thousands.all():
        again = (~odd & text.str.contains(_THOUSANDS).fill_null(False)).arg_true()
        values = values.scatter(again, text.gather(again).str.replace_all(r"\.", "").cast(pl.Float64))
    bad = none.scatter(rows, read.is_null() & ~absent)
    return Numbers(values, bad, findings)


def _written_numbers(
    cells: pl.Series, name: str, dialect: Dialect, findings: Findings, semicolons: bool, fractions: bool
) -> tuple[pl.Series, str]:
    """Numbers of cells that are no plain floats (with units, decimal commas, thousands marks), and the decimal mark."""
    written, cells = cells, cells.str.replace_many(_TO_ASCII)
    stars = cells.str.contains(_STARS).fill_null(False)
    if stars.any():
        counted = cells.str.count_matches("[★⭐]").cast(pl.String)
        findings.note(f"{name}: {written.filter(stars)[0]!r} is read as the number of its stars")
        cells = pl.select(pl.when(stars).then(counted).otherwise(cells)).to_series()
    frame = cells.to_frame("cell").select(
        pl.col("cell"),
        pl.col("cell").str.extract_groups(
            rf"(?i)^(?<open>\()?\s*(?<before>{_CURRENCY})?\s*(?<sign>[-+−])?\s*(?<after_sign>{_CURRENCY})?\s*"
            rf"(?<number>{_NUMBER})(?<minus>-)?\s*"
            rf"(?<unit>%|{_CURRENCY}|{_RATING_SCALE}|\p{{Han}}{{1,2}}|[★☆*]+|[glhsdkmbt]|\p{{L}}{{2,12}}\.?)?(?<close>\))?$"
        ).alias("part"),
    ).unnest("part")  # fmt: skip
    frame = frame.with_columns(
        pl.when(pl.col("open").is_null() == pl.col("close").is_null()).then("number").alias("number")
    )
    frame = _scaled(frame)
    unit = pl.concat_str(
        pl.col("before", "after_sign", "unit").fill_null("").str.to_lowercase().str.strip_chars_end("s."), separator=""
    )
    frame = frame.with_columns(unit.str.replace_all(" ", "").alias("units"))
    if frame["scale"].null_count() < len(frame):
        at = frame["scale"].is_not_null().arg_true()[0]
        findings.note(f"{name}: {written[at]!r} is read as {frame['scale'][at]:,.0f} times its number")
    units = frame["units"].filter(frame["number"].is_not_null()).unique()
    units = units.filter(units != "").sort()
    if len(units) > 1:  # grams and kilograms, dollars and euros: not numbers of one kind
        frame = frame.with_columns(pl.when(pl.col("units") == "").then("number"))
        findings.note(f"{name}: numbers of several units ({', '.join(units.head(3))}) are not read as numbers")
    elif len(units):
        findings.note(f"{name}: read without {units[0]!r}")
    number = frame["number"].str.replace_all(r"[ \u00a0\u202f'’]", "")
    enclosed = frame["open"].is_not_null() & frame["number"].is_not_null()
    if enclosed.any():
        findings.note(f"{name}: {written.filter(enclosed)[0]!r} is read as below 0, as in accounts")
    minus = frame["minus"].is_not_null() | enclosed | frame["sign"].is_in(["-", "−"]).fill_null(False)
    comma, point = number.str.contains(","), number.str.contains(r"\.")
    both = comma & point
    last_comma = number.str.contains(r",[^.]*$")
    english = fractions or bool((both & ~last_comma).any())
    decimal = _decimal(number.filter(comma & ~point), name, dialect, findings, semicolons, english)
    if decimal == "." and bool((both & last_comma).any()) and not english:
        decimal = ","
        findings.note(f"{name}: the comma is the decimal mark, as in {number.filter(both & last_comma)[0]!r}")
    short = comma & ~point & number.str.contains(_DECIMAL_COMMA)
    grouped_by_point = number.str.contains(r"^[1-9]\d{0,2}(?:\.\d{3})+(?:,\d*)?$")
    grouped_by_comma = number.str.contains(r"^[1-9](?:\d{0,2}(?:,\d{3})+|\d?(?:,\d{2})+,\d{3})(?:\.\d*)?$")  # 1,23,456
    as_comma = short | (both & last_comma & grouped_by_point) | (comma & ~point & (decimal == ","))
    as_comma = as_comma | (point & ~comma & grouped_by_point & (decimal == ","))
    plain = pl.select(
        pl.when(as_comma.fill_null(False)).then(number.str.replace_all(r"\.", "").str.replace(",", "."))
        .when((grouped_by_comma | ~comma).fill_null(False)).then(number.str.replace_all(",", ""))
    ).to_series()  # fmt: skip
    number_values = plain.cast(pl.Float64, strict=False)
    number_values = number_values.set(~number_values.is_finite().fill_null(True), None) * frame["scale"].fill_null(1.0)
    return pl.select(pl.when(minus).then(-number_values).otherwise(number_values)).to_series(), decimal


def _scaled(frame: pl.DataFrame) -> pl.DataFrame:
    """Parts of numbers with `scale`, what the unit of each multiplies by ("1.2k"), and without that in `unit`."""
    unit = frame["unit"].str.to_lowercase().str.strip_chars_end(".")
    scales = _SCALES | (_DOUBTFUL_SCALES if bool((unit == "k").any()) else {})
    head = pl.select(pl.when(unit.str.contains(r"^[千万萬亿億]")).then(unit.str.head(1)).otherwise(unit)).to_series()
    scale = head.replace_strict(scales, default=None, return_dtype=pl.Float64)
    doubtful = unit.is_in(list(_DOUBTFUL_SCALES)) & scale.is_null()
    rest = pl.select(pl.when(head == unit).then(None).otherwise(unit.str.slice(1))).to_series()
    return frame.with_columns(
        scale=scale,
        unit=pl.select(pl.when(scale.is_not_null()).then(rest).otherwise(frame["unit"])).to_series(),
        number=pl.select(pl.when(~doubtful.fill_null(False)).then(frame["number"])).to_series(),
    )


def _point(text: pl.Series, values: pl.Series, findings: Findings, semicolons: bool) -> str | None:
    """The decimal mark of a column whose points may all separate thousands, such as 1.234; None for others."""
    pointed = text.filter(text.str.contains(".", literal=True).fill_null(False))
    if not len(pointed) or not pointed.str.contains(_THOUSANDS).all():
        return None
    twice = pointed.filter(pointed.str.count_matches(r"\.") > 1)
    if len(twice):
        findings.note(f"{text.name}: points stand before thousands, as in {twice[0]!r}")
        return ","
    if text.filter(values.is_null() & text.is_not_null()).str.contains(_DECIMAL_COMMA).any():
        return None
    readings = (pointed[0], pointed[0].replace(".", ""))
    value, reading = (",", readings[1]) if semicolons else (".", readings[0])
    findings.assume(
        "decimal", value, f"{text.name}: {pointed[0]!r} may be {readings[0]} or {readings[1]}, read as {reading}"
    )
    return value


def _decimal(
    commas: pl.Series, name: str, dialect: Dialect, findings: Findings, semicolons: bool, fractions: bool
) -> str:
    """The decimal mark of numbers with a comma and no point."""
    if dialect.decimal is not None:
        return dialect.decimal
    if not len(commas):
        return "."
    short = commas.str.contains(_DECIMAL_COMMA)
    if short.any():
        both = "both marks of decimals are written" if fractions else "the comma is the decimal mark"
        findings.note(f"{name}: {both}, as in {commas.filter(short)[0]!r}")
        return "." if fractions else ","
    if fractions or commas.str.contains(r",\d{3},").any():
        return "."
    example = commas[0]
    readings = (example.replace(",", "."), example.replace(",", ""))
    value, reading = (",", readings[0]) if semicolons else (".", readings[1])
    findings.assume("decimal", value, f"{name}: {example!r} may be {readings[0]} or {readings[1]}, read as {reading}")
    return value


def infer_column(
    text: pl.Series, dialect: Dialect | None = None, *, semicolons: bool = False, sample: bool = False
) -> tuple[pl.Series, Findings]:
    """A column that describes something, in the type that its cells have: booleans, numbers or text.

    Parameters
    ----------
    sample: it is only a part, from which roles are guessed: a few odd cells do not matter and nothing is noted.
    """
    dialect, findings = dialect or Dialect(), Findings()
    text = _stripped(text)
    filled = text.drop_nulls()
    if not len(filled) or text.name in dialect.text:
        return text, findings
    absent = _is_absent(filled, dialect)
    words = filled.filter(~absent) if absent.any() else filled
    if not len(words):
        return _without_absent(text, dialect, findings), findings
    plain = bool(words.str.len_bytes().max() <= 5) and set(words.str.to_lowercase().unique()) <= {"true", "false"}  # type: ignore[operator]
    if plain or (not sample and is_boolean(words)):
        if absent.any():
            findings.note(
                f"{text.name}: {_cells(int(absent.sum()))} {_examples(filled.filter(absent))}, read as missing"
            )
        if not plain:
            findings.note(
                f"{text.name}: {_flags(words)} are read as true and false "
                f'(keep the column as text: text = ["{text.name}"] under [read])'
            )
        return to_booleans(text), findings
    numeric = words.str.contains(rf"(?i)^\(?(?:{_CURRENCY})?[^\p{{L}}]*\p{{Nd}}|{_STARS}")
    if float(numeric.mean() or 0) < 0.5 or words.str.contains(LEADING_ZERO).any():  # type: ignore[arg-type]
        return _kept_text(text, words, dialect, findings), findings
    numbers = parse_numbers(text, dialect, semicolons=semicolons)
    bad = int(numbers.bad.sum())
    share = 1 - bad / len(words)
    exponents = words.str.contains(r"^\d+[eE]\d+$").any()
    if exponents or (not bad and words.str.contains(r"^\d{20,}$").any()):  # codes, and numbers no float holds
        return _kept_text(text, words, dialect, findings), findings
    if bad and not sample:
        others = text.filter(numbers.bad)
        odd = _examples(others)
        if share < _MIN_NUMBER_SHARE or others.str.contains(r"\d").any() or len(words) < 20:
            if share >= 0.5:
                findings.note(f"{text.name}: kept as text, {_cells(bad)} {odd}, which no number is")
                return _without_absent(text, dialect, findings), findings
            return _kept_text(text, words, dialect, findings), findings
        numbers.findings.note(
            f"{text.name}: {_cells(bad)} {odd}, read as missing among numbers "
            f'(keep the column as text: text = ["{text.name}"] under [read])'
        )
    elif bad and share < _MIN_NUMBER_SHARE_OF_SAMPLE:
        return text, findings
    values = numbers.values
    whole = values.cast(pl.Int64, strict=False)
    pointed = words.str.contains(r"[.,eE]").any()
    same = not pointed and whole.null_count() == values.null_count()
    if same:
        exact = text.cast(pl.Int64, strict=False)
        if exact.null_count() == whole.null_count():
            whole = exact
        return whole, numbers.findings
    return values, numbers.findings


def _flags(words: pl.Series) -> str:
    """Words for true and for false as they are written, those for true first."""
    seen = words.unique().sort().to_list()
    sides = [[repr(word) for word in seen if BOOLEANS[word.lower()] is value] for value in (True, False)]
    return " and ".join(", ".join(side) for side in sides if side)


def _kept_text(text: pl.Series, words: pl.Series, dialect: Dialect, findings: Findings) -> pl.Series:
    """A column that stays text; noted where its name is one of numbers and it holds digits."""
    if is_amount(text.name) and float(words.str.contains(r"\p{N}").mean() or 0) >= 0.5:  # type: ignore[arg-type]
        findings.note(f"{text.name}: kept as text, {_examples(words)} are not read as numbers")
    return _without_absent(text, dialect, findings)


def _without_absent(text: pl.Series, dialect: Dialect, findings: Findings) -> pl.Series:
    """Text whose words for a missing value are null; this is noted. "NA" among codes of two letters is a country."""
    words = tuple(word.lower() for word in dialect.missing) if dialect.missing is not None else _IN_TEXT
    if dialect.missing is None and not _is_codes(text):
        words = (*words, "na")
    hit = text.str.to_lowercase().is_in(words).fill_null(False)
    if not hit.any():
        return text
    findings.note(
        f"{text.name}: {_cells(int(hit.sum()))} {_examples(text.filter(hit))}, read as missing "
        "(keep them as text: missing = [] under [read])"
    )
    return text.set(hit, None)


def _is_codes(text: pl.Series) -> bool:
    """Whether the values of a column are codes of two letters."""
    others = text.drop_nulls().unique()
    others = others.filter(~others.str.to_lowercase().is_in(ABSENT))
    return len(others) > 0 and bool(others.str.contains(r"^[A-Za-z]{2}$").all())


def _is_absent(cells: pl.Series, dialect: Dialect) -> pl.Series:
    """Cells that are a word for a missing number."""
    words = (*ABSENT, *DASHES) if dialect.missing is None else tuple(word.lower() for word in dialect.missing)
    return cells.str.to_lowercase().is_in(words).fill_null(False)


def _stripped(text: pl.Series) -> pl.Series:
    text = text.cast(pl.String).str.strip_chars()
    return text.set(text == "", None) if (text == "").any() else text


def _cells(count: int) -> str:
    return f"{count:,} cell is" if count == 1 else f"{count:,} cells are"


def _examples(cells: pl.Series) -> str:
    """The commonest few cells, for a message."""
    common = cells.value_counts(sort=True).head(3).to_series().to_list()
    return " or ".join(repr(cell if len(cell) <= 40 else cell[:37] + "...") for cell in common)
