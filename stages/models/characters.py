"""`builtin:characters`: a token for each character, for texts whose tokenizer nobody knows. It needs no other package."""

from collections.abc import Sequence

CHARACTERS = "builtin:characters"


class CharacterTokenizer:
    """Ids are Unicode code points, so that every text survives a round trip, and equal beginnings have equal ids."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The code points of a text.

        >>> CharacterTokenizer().encode("aé")
        [97, 233]
        """
        return list(map(ord, text))

    def decode(self, ids: Sequence[int], **_: object) -> str:
        """The text of code points; what is none of a character becomes a replacement mark.

        >>> CharacterTokenizer().decode([97, 233])
        'aé'
        """
        return "".join(chr(each) if each < 0x110000 and not 0xD800 <= each < 0xE000 else "\ufffd" for each in ids)

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: object) -> list[str]:
        """The texts of several."""
        return [self.decode(row) for row in rows]
