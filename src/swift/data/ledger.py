"""Where every row went: rows in = kept + cut + split + dropped + failed, always."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_LISTED = 1000  # failures that are written out; all are counted


@dataclass
class Account:
    """The rows of one source."""

    rows: int = 0
    kept: int = 0
    cut: int = 0  # kept, but shortened
    split: int = 0  # kept in pieces
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    samples: int = 0  # what kept, cut and split rows became
    places: list[str] = field(default_factory=list)  # "chats.jsonl:17: why", the first ones

    def fail(self, place: str, why: str) -> None:
        """Count a row that cannot be used."""
        self.failed[why] += 1
        self.note(f"{place}: {why}")

    def note(self, text: str) -> None:
        """Write out a failure, up to a bound."""
        if len(self.places) < _LISTED:
            self.places.append(text)

    def add(self, other: Account) -> None:
        """Put the rows of another account to these."""
        self.rows += other.rows
        self.kept += other.kept
        self.cut += other.cut
        self.split += other.split
        self.dropped += other.dropped
        self.failed += other.failed
        self.samples += other.samples
        self.places += other.places[: _LISTED - len(self.places)]

    @property
    def numbers(self) -> dict[str, int]:
        """What a table of accounts shows."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "cut": self.cut,
            "split": self.split,
            "dropped": sum(self.dropped.values()),
            "failed": sum(self.failed.values()),
            "samples": self.samples,
        }

    @property
    def balanced(self) -> bool:
        """Whether every row is accounted for."""
        gone = sum(self.dropped.values()) + sum(self.failed.values())
        return self.rows == self.kept + self.cut + self.split + gone


@dataclass
class Ledger:
    """The accounts of all sources, by name."""

    accounts: dict[str, Account] = field(default_factory=dict)

    def account(self, source: str) -> Account:
        """The account of a source, new if need be."""
        return self.accounts.setdefault(source, Account())

    def add(self, other: Ledger) -> None:
        """Put the accounts of another ledger to these."""
        for name, account in other.accounts.items():
            self.account(name).add(account)

    @property
    def failures(self) -> list[str]:
        """The failures that were written out, over all sources."""
        return [place for account in self.accounts.values() for place in account.places]

    @property
    def failed(self) -> int:
        """Rows that cannot be used, over all sources."""
        return sum(sum(account.failed.values()) for account in self.accounts.values())

    @property
    def unused(self) -> int:
        """Rows that nothing is learned from, dropped or failed, over all sources."""
        return sum(a.numbers["dropped"] + a.numbers["failed"] for a in self.accounts.values())

    def losses(self) -> list[str]:
        """What a person must know: rows that are not learned from, why, and the first of them."""
        lines = []
        for name, account in self.accounts.items():
            gone = account.dropped + account.failed
            if not gone:
                continue
            lines.append(f"{name}: {sum(gone.values()):,} of {account.rows:,} rows are not used")
            lines += [f"  {place}" for place in account.places[:3]]
            if len(account.places) > 3:
                lines.append("  ... all of them in ledger.json")
        return lines

    @classmethod
    def of(cls, content: dict[str, Any]) -> Ledger:
        """What ``as_dict`` gave."""
        return cls(
            {
                name: Account(
                    **{
                        **account,
                        "dropped": Counter(account["dropped"]),
                        "failed": Counter(account["failed"]),
                    }
                )
                for name, account in content.items()
            }
        )

    def check(self) -> None:
        """A promise of ours, not of the user's: nothing is lost on the way."""
        for name, account in self.accounts.items():
            assert account.balanced, f"the ledger of {name} does not add up: {account}"

    def as_dict(self) -> dict[str, Any]:
        """For ``ledger.json``."""
        return {
            name: {
                "rows": account.rows,
                "kept": account.kept,
                "cut": account.cut,
                "split": account.split,
                "dropped": dict(account.dropped),
                "failed": dict(account.failed),
                "samples": account.samples,
                "places": account.places,
            }
            for name, account in self.accounts.items()
        }
