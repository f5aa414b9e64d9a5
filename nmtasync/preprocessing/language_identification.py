"""Which language a line is in, as far as a classifier can tell: an optional rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtasync.errors import UserError


class LanguageIdentifier:
    """How probable it is that lines are in a language, by the library py3langid.

    Args:
        classifier: The library's, which gives probabilities.
        language: The code by which the library knows the language.
    """

    def __init__(self, classifier: Any, language: str) -> None:
        self._classifier = classifier
        self._language = language

    @classmethod
    def of(cls, code: str | None) -> LanguageIdentifier:
        """Make one for a language.

        Args:
            code: The tag of the language.

        Raises:
            UserError: The library is not installed, or does not know the language.
        """
        where = "data.min_language"
        if code is None:
            remedy = "give --source-language and --target-language, or leave it out"
            raise UserError("needs to know both languages", where=where, remedy=remedy)
        try:
            from py3langid.langid import MODEL_FILE
            from py3langid.langid import LanguageIdentifier as Classifier
        except ImportError:
            raise UserError(
                "needs py3langid, which is not installed",
                where=where,
                remedy='pip install "nmtasync[langid]"',
            ) from None
        classifier = Classifier.from_model_file(MODEL_FILE, norm_probs=True)
        language = code.split("-")[0]
        if language not in classifier.labels:
            known = ", ".join(sorted(classifier.labels))
            raise UserError(
                f"can't tell {code!r} from others; known are {known}",
                where=where,
                remedy="leave it out",
            )
        return cls(classifier, language)

    def probabilities(self, lines: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the probability of the language for each line: [N]."""
        ranked = (dict(self._classifier.rank(line)) for line in lines)
        return np.array([of_line[self._language] for of_line in ranked], np.float64)
