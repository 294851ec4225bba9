"""What deconv promises, as marks for the tests that show it; `make reliability` gathers them into RELIABILITY.md.

A test shows a promise by wearing its mark. What it did goes there too, and is added up over all tests: `fault("...")`
for one that it injects, or `record_property("injected: ...", number)` for more, and likewise "tried: ..." for inputs
and "compared: bytes".
"""

from __future__ import annotations

from pytest import mark

GOES_ON = mark.promise(
    "A run that is killed at any moment and started again makes only what is missing, and ends with the bytes of a run "
    "that nothing disturbed."
)
ON_THE_DISK = mark.promise(
    "A disk that is full or may not be written to gives one line and exit status 2. What was finished is kept, nothing "
    "is half-written under its final name, and the run goes on when there is room."
)
LOG = mark.promise("Where run.log cannot be written, the run says so once and goes on.")
UNCHANGED = mark.promise("An image that is changed or deleted while it is looked at is noticed and named.")
NEVER_MIXED = mark.promise(
    "A run does not go on with what was made of other weights, images, settings, versions or threads: it names the "
    "difference and leaves everything as it is."
)
ONE_RUN = mark.promise("Of two runs started into one folder the second ends at once, naming the first.")
INTERRUPTED = mark.promise("Ctrl-C ends a run with status 130, nothing half-written, and how to go on.")
SAME_BYTES = mark.promise(
    "One process or many, any cut into shards and any order in which they are done give the same bytes."
)
REFUSED = mark.promise(
    "Broken, foreign and hostile input is read as a person would expect, or refused in one line that says what was "
    "given and what to do. No code in a file is run, and a small file does not fill the memory."
)
NOTHING_BEHIND = mark.promise(
    "A refusal (status 2) leaves nothing behind: what was half-written is removed, and so is the folder that was made "
    "for the run, unless something was finished in it. A folder that was there before is left as it is, with a line in "
    "its run.log."
)
ANY_BYTES = mark.promise(
    "Whatever bytes stand in a file that deconv reads, there is one line, or something that can be used."
)

fault = mark.fault
