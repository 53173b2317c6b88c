"""Conversations to the text that a model reads, by the tokenizer's template; the one place that knows templates."""

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from minigrpo.config import BadInput, first_line
from minigrpo.files import check_characters

ROLES = ("system", "user", "assistant")
Prompt = str | list[dict]  # a text, or a conversation: its messages {role, content}, as in TRL
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
    checked = _check_messages(messages, where)
    if not checked or checked[-1]["role"] != "assistant":
        raise BadInput(f"{where}, does not end with a turn of the assistant: there is nothing that the reward is for.")
    if checked[0]["role"] == "assistant":
        raise BadInput(f"{where}, begins with the assistant: there is nothing that it answers.")
    return checked


def check_prompt(prompt: Prompt, where: str) -> Prompt:
    """A text as it is; of a conversation the messages as {role, content} with texts, the last of them not the assistant's.

    Raises:
        BadInput: with ``where``, for whatever is missing, empty or not a text.
    """
    if isinstance(prompt, str):
        check_characters(prompt, where)
        return prompt
    if not isinstance(prompt, list):
        hint = "; a single conversation is a list of its messages" if isinstance(prompt, dict) else ""
        raise BadInput(f"{where}, is {prompt!r:.60}; a prompt is a text or a list of messages with role and content{hint}.")
    checked = _check_messages(prompt, where)
    if not checked:
        raise BadInput(f"{where}, is a conversation without a message; wanted is one that a user's turn ends, say.")
    if checked[-1]["role"] == "assistant":
        raise BadInput(f"{where}, ends with a turn of the assistant, and so does not ask for another.")
    return checked


def _check_messages(messages, where: str) -> list[dict]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadInput(f"{where}, has {messages!r:.60} as its messages; wanted is a list of objects with role and content.")
    for m in messages:
        if m.get("role") not in ROLES:
            raise BadInput(f"{where}, has a message with the role {m.get('role')!r:.40}; wanted is one of {', '.join(ROLES)}.")
    return [{"role": m["role"], "content": _content(m, where)} for m in messages]


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


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, where: str) -> str:
    """What the model reads of a prompt: a text as it is, a conversation in the tokenizer's template and up to where the
    assistant's turn begins.

    Raises:
        BadInput: with ``where``, for what is no prompt, or a conversation that the template refuses or leaves a part of out.
    """
    prompt = check_prompt(prompt, where)
    if isinstance(prompt, str):
        return prompt
    try:
        text = _render(tokenizer, prompt, add_generation_prompt=True)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    for m in prompt:
        if m["content"].strip() not in text:
            raise BadInput(
                f"{where}: The tokenizer's chat template leaves out a part of what the {m['role']} said "
                f"({m['content']!r:.40}), such as the thoughts of an earlier answer; the model would never read it, so take it "
                "out of the prompt."
            )
    return text


def as_conversation(prompt: Prompt, *, chat: bool, system_prompt: str | None, where: str) -> Prompt:
    """With ``chat`` a text is a user's turn; ``system_prompt`` is the turn in front of a conversation.

    Raises:
        BadInput: with ``where``, if there is no place for ``system_prompt``.
    """
    if chat and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if system_prompt is None:
        return prompt
    if isinstance(prompt, str):
        raise BadInput(f"{where}, is a plain text, and system_prompt is a turn of a conversation; --chat makes the text one.")
    if prompt[0]["role"] == "system":
        raise BadInput(f"{where}, has a turn of the system already; leave out system_prompt, or that turn.")
    return [{"role": "system", "content": system_prompt}, *prompt]


def knows_conversations(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a template of its own, as models have that were trained on conversations."""
    return tokenizer.chat_template not in (None, PLAIN_CHAT_TEMPLATE)


def last_words(prompt: Prompt) -> str:
    """A prompt as a line of a table shows it: of a conversation the last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


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
