"""The command lines of all commands: options and arguments with odd values; amounts with units."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import click

from . import bases, damage
from .oracle import call, command, strict_json, tree, unchanged
from .runner import Case, Fault, Surface, Verdict
from .settings_files import in_range

# What each command gets so that it starts no work; the last one wins, so these are put last.
SAFE: dict[str, tuple[str, ...]] = {
    "submit": ("--dry-run",), "resume": ("--dry-run",), "retry": ("--dry-run",),
    "embed": ("--dry-run",), "export": ("--dry-run",), "demo": ("--sensors", "0"),
    "data synth": ("--clips", "5"), "doctor": ("--quick",), "ledger compact": ("--dry-run",)}
OFTEN = ("submit", "render", "embed", "run", "data check")  # those that take most
NEVER_DONE = ("demo", "data synth")  # what SAFE gives them is always refused
WITHOUT = {"watch", "follow", "open_page", "detach", "test_only", "listen"}
USUAL = {
    "pipeline": ("upstream", "upstream", "compress", "clips", "esc50", "us8k", "avc"),
    "cluster": ("greene", "local"), "path": ("cluster.yaml",), "every": ("5", "30"),
    "config_path": ("ws/runs/good-1/steps/sample/config.json",), "key_file": ("cluster.yaml",),
    "pipelines": ("upstream",), "inputs_": ("fit=good-1",), "student": ("latest", "student.h5"),
    "run": ("good-1", "latest", "bad"),
    "step": ("extract", "sample", "train", "evaluate"), "steps": ("extract", "sample"),
    "inputs": ("audio", "audio/a.wav", "audio/*.wav"), "model": ("untrained", "sea-64"),
    "weights": ("untrained", "untrained:3"), "audio_dir": ("audio",), "folder": ("audio", "esc50"),
    "table": ("esc50/meta/esc50.csv",), "audio": ("esc50/audio",),
    "esc50": ("esc50",), "us8k": ("us8k",), "output": ("out",), "output_dir": ("out",),
    "out": ("city",), "keys": ("1", "2"), "key": ("1",), "tabs": ("sonyc_ust",), "config_file": (
        "cluster.yaml",), "sheet": ("1AbCdEfGhIjKlMnOpQrSt",), "conditions": ("Epochs=3",),
    "sets": ("train.epochs=3", "train.mem=4GB", "extract.time=2h", "epochs=3"), "grid": (
        "emb-dim=64,128",), "workspace_dir": ("ws",), "calibrate": ("audio",)}


class CommandLines(Surface):
    """Words of every command."""

    name = "command-line"
    share = 900

    def prepare(self, folder: Path) -> None:
        from l3hpc.cli import cli

        bases.working_folder(folder)
        self.base = folder
        self.commands: dict[str, click.Command] = {}
        self._walk(cli, click.Context(cli), ())

    def _walk(self, found: click.Command, context: click.Context, path: tuple[str, ...]) -> None:
        if not isinstance(found, click.Group):
            self.commands[" ".join(path)] = found
            return
        for name in found.list_commands(context):
            inside = found.get_command(context, name)
            assert inside is not None
            self._walk(inside, click.Context(inside, parent=context, info_name=name),
                       (*path, name))

    def judge(self, case: Case) -> Verdict:
        rng = case.rng
        name = rng.choice(OFTEN) if rng.random() < 0.4 else rng.choice(sorted(self.commands))
        chosen = self.commands[name]
        # the working folder is shared: these commands write nothing but into case.folder
        here = case.folder
        for entry in self.base.iterdir():
            if entry.name not in ("ws",):
                os.symlink(entry, here / entry.name)
        shutil.copytree(self.base / "ws", here / "ws", symlinks=True)
        words = self._words(chosen, case)
        words = [*name.split(), *words, *SAFE.get(name, ())]
        if rng.random() < 0.03:
            words.insert(rng.randrange(len(words) + 1), damage.argument(rng))
        before = tree(here)
        said = command(*words)
        if said.code == 2 or name in SAFE:
            unchanged(here, before, str(words))
        if name == "submit" and said.code == 0 and "--json" in words and "--help" not in words:
            for step in strict_json(said.out)["steps"]:
                in_range(step)
        if name in NEVER_DONE and said.code not in (2,) and "--help" not in words \
                and "-h" not in words:
            raise Fault(f"exit {said.code}, though {SAFE[name]} is never right: {words}")
        return Verdict(said.code == 0, said.code)

    def _words(self, chosen: click.Command, case: Case) -> list[str]:
        """Some options and all arguments, each usual or odd."""
        rng, changes = case.rng, list(case.damages())
        options = [one for one in chosen.params
                   if isinstance(one, click.Option) and one.name not in WITHOUT]
        picked = rng.sample(options, min(len(options), rng.choice((0, 0, 1, 1, 2, 3))))
        odd: dict[int, random.Random] = {}
        for change in changes:
            place = change.choice([*chosen.params] or [None])
            if place is not None and place.name not in WITHOUT:
                odd[id(place)] = change
                if isinstance(place, click.Option) and place not in picked:
                    picked.append(place)
        words: list[str] = []
        picked += [one for one in options if one.required and one not in picked]
        if any(one.name == "audio_dir" for one in options):
            words += ["--audio-dir", "audio", "--weights", "untrained"]
        for option in picked:
            words.append(rng.choice(option.opts))
            if not option.is_flag:
                value = self._value(option, odd.get(id(option)), rng)
                if rng.random() < 0.3 and words[-1].startswith("--"):
                    words[-1] += f"={value}"
                else:
                    words.append(value)
        for argument in chosen.params:
            if isinstance(argument, click.Argument) and (argument.required or rng.random() < 0.7):
                count = 1 if argument.nargs == 1 else rng.choice((1, 2, 2, 3))
                words += [self._value(argument, odd.get(id(argument)), rng) for _ in range(count)]
        return words

    def _value(self, parameter: Any, odd: random.Random | None, rng: random.Random) -> str:
        if odd is not None:
            kind = parameter.type
            if isinstance(kind, (click.IntRange, click.FloatRange)) or kind in (
                    click.INT, click.FLOAT):
                return odd.choice((str(odd.choice(damage.NUMBERS)), damage.argument(odd)))
            return damage.argument(odd)
        if isinstance(parameter.type, click.Choice):
            return str(rng.choice(list(parameter.type.choices)))
        if parameter.name in USUAL:
            return rng.choice(USUAL[parameter.name])
        return rng.choice(("1", "2", "8", "16", "64", "128", "8000"))


class Amounts(Surface):
    """Memory and time as people write them: read, and written again."""

    name = "amounts"
    share = 250

    def judge(self, case: Case) -> Verdict:
        from l3hpc.config import units
        from l3hpc.errors import L3hpcError

        rng = case.rng
        memory, minutes = rng.randrange(1, 2**rng.randrange(1, 31)), rng.randrange(1, 525_601)
        for text, wanted, parse in (
                (units.slurm_time(minutes), minutes, units.parse_time),
                (units.format_time(minutes), minutes, units.parse_time),
                (f"{memory}MB", memory, units.parse_memory), (f"{memory}M", memory,
                                                              units.parse_memory)):
            if parse(text) != wanted:
                raise Fault(f"{wanted} was written as {text!r} and read as {parse(text)}")
        shown = units.parse_memory(units.format_memory(memory).replace(",", ""))
        if abs(shown - memory) > 0.006 * memory + 1:
            raise Fault(f"{memory} MB is shown as {units.format_memory(memory)}")
        text = rng.choice((f"{memory}GB", f"{minutes / 7:.2f}h", units.slurm_time(minutes)))
        for change in case.damages():
            kind = change.randrange(3)
            at = change.randrange(len(text) + 1)
            text = damage.word(change) if kind == 0 else \
                text[:at] + damage.word(change)[:3] + text[at:] if kind == 1 else \
                text[:at] + text[at + 1:]
        (case.folder / "amount").write_text(text, errors="surrogatepass")
        codes = []
        for parse, most in ((units.parse_memory, 2**30), (units.parse_time, 525_600)):
            found = call(parse, text)
            if not isinstance(found, L3hpcError) and not (
                    isinstance(found, int) and 1 <= found <= most):
                raise Fault(f"{text!r} was read as {found!r}")
            codes.append(isinstance(found, L3hpcError))
        return Verdict(not all(codes), 2)
