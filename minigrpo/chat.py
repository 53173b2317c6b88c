"""Conversations to the text that a model reads, by the tokenizer's template; the one place that knows templates."""

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from minigrpo.config import BadInput, first_line
from minigrpo.files import check_characters

ROLES = ("system", "user", "assistant")
# For a tokenizer that brings no template of its own: a line per turn, the assistant's ended by EOS.
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}assistant: "
    "{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message.role }}: {{ message.content }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def check_chat(messages, where: str) -> list[dict]:
    """The messages as {role, content} with texts, the last of them an answer.

    Raises:
        BadInput: with ``where``, for whatever is missing, empty or not a text.
    """
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadInput(f"{where}, has {messages!r:.60} as its messages; wanted is a list of objects with role and content.")
    for m in messages:
        if m.get("role") not in ROLES:
            raise BadInput(f"{where}, has a message with the role {m.get('role')!r:.40}; wanted is one of {', '.join(ROLES)}.")
    checked = [{"role": m["role"], "content": _content(m, where)} for m in messages]
    if not messages or messages[-1]["role"] != "assistant":
        raise BadInput(f"{where}, does not end with a turn of the assistant: there is nothing that the reward is for.")
    if messages[0]["role"] == "assistant":
        raise BadInput(f"{where}, begins with the assistant: there is nothing that it answers.")
    return checked


def _content(message: dict, where: str) -> str:
    """A message's text. Where it comes in parts, as OpenAI's and multimodal chats have it, those of a template: one text."""
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, dict) else part
                raise BadInput(
                    f"{where}, has a message of the {message['role']} with a part {kind!r:.40}; only parts "
                    '{"type": "text", "text": ...} are read.'
                )
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not content.strip():
        raise BadInput(f"{where}, has a message of the {message['role']} without content.")
    check_characters(content, where)
    return content


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> tuple[str, list[int], list[int], list[bool]]:
    """What comes before the assistant's first turn, as text and ids; the ids of what follows it; and which of those count:
    what the assistant said, each turn with its EOS.

    Raises:
        BadInput: if the tokenizer's chat template refuses the chat, or rewrites earlier turns, so that no turn can be found
            in the whole.
    """
    first = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    start = _render(tokenizer, messages[:first], add_generation_prompt=True)
    text, ids, counts = start, [], []
    for i in range(first, len(messages)):
        opening = _render(tokenizer, messages[:i], add_generation_prompt=messages[i]["role"] == "assistant")
        closing = _render(tokenizer, messages[: i + 1])
        if not (opening.startswith(text) and closing.startswith(opening)):
            raise BadInput(
                "The tokenizer's chat template changes earlier turns (it drops their thoughts, say), so the assistant's cannot "
                "be told apart in it; give such a model chats with a single answer, the last turn."
            )
        for piece, learnt in ((opening[len(text) :], False), (closing[len(opening) :], messages[i]["role"] == "assistant")):
            tokens = tokenizer(piece, add_special_tokens=False)["input_ids"]
            end = tokens.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in tokens else len(tokens)
            ids += tokens
            counts += [learnt and t < end for t in range(len(tokens))]
        text = closing
    if not any(counts):
        raise BadInput("The tokenizer's chat template leaves out what the assistant said.")
    width = max(t for t, c in enumerate(counts) if c) + 1
    return start, tokenizer(start, add_special_tokens=False)["input_ids"], ids[:width], counts[:width]


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict], **kwargs) -> str:
    template = None if tokenizer.chat_template else PLAIN_CHAT_TEMPLATE
    try:
        return tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **kwargs)
    except (TemplateError, TypeError, ValueError) as error:  # its own raise_exception, or what it does not find in a chat
        raise BadInput(f"The tokenizer's chat template refuses this chat: {first_line(error)}") from error
