"""Conversations to the text that a model reads, by the tokenizer's template; the one place that knows templates."""

from transformers import PreTrainedTokenizerBase

from minigrpo.config import BadInput

# For a tokenizer that brings no template of its own: a line a turn, the assistant's ended by EOS.
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}assistant: "
    "{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message.role }}: {{ message.content }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> tuple[str, list[int], list[int], list[bool]]:
    """What comes before the assistant's first turn, as text and ids; the ids of what follows it; and which of those count:
    what the assistant said, each turn with its EOS.

    Raises:
        BadInput: if the tokenizer's chat template rewrites earlier turns, so that no turn can be found in the whole.
    """
    template = tokenizer.chat_template or PLAIN_CHAT_TEMPLATE

    def render(turns: list[dict], **kwargs) -> str:
        return tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **kwargs)

    first = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    start = render(messages[:first], add_generation_prompt=True)
    text, ids, counts = start, [], []
    for i in range(first, len(messages)):
        opening = render(messages[:i], add_generation_prompt=messages[i]["role"] == "assistant")
        closing = render(messages[: i + 1])
        if not (opening.startswith(text) and closing.startswith(opening)):
            raise BadInput(
                "The tokenizer's chat template changes earlier turns, so the assistant's cannot be told apart in it."
            )
        for piece, learnt in ((opening[len(text) :], False), (closing[len(opening) :], messages[i]["role"] == "assistant")):
            tokens = tokenizer(piece, add_special_tokens=False)["input_ids"]
            end = tokens.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in tokens else len(tokens)
            ids += tokens
            counts += [learnt and t < end for t in range(len(tokens))]
        text = closing
    width = max(t for t, c in enumerate(counts) if c) + 1
    return start, tokenizer(start, add_special_tokens=False)["input_ids"], ids[:width], counts[:width]
