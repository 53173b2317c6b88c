"""Chats: which tokens of them count, and the templates that do not go along."""

import pytest

from minigrpo.chat import PLAIN_CHAT_TEMPLATE, as_conversation, check_prompt, knows_conversations, last_words, prompt_text
from minigrpo.config import BadInput
from minigrpo.sampling import prompt_tokens, sample_completions
from minigrpo.triples import encode_record, load_triples
from tests.tools.pretrain import byte_tokenizer

pytestmark = pytest.mark.quick

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1 = ?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2 + 3 = ?"},
    {"role": "assistant", "content": "2 + 3 = 5"},
]


def counted(tokenizer, record):
    _, _, rest, counts = encode_record(tokenizer, record)
    return tokenizer.decode([token for token, counts_ in zip(rest, counts, strict=True) if counts_])


@pytest.mark.parametrize("template", ["its own", None])
def test_of_a_chat_only_what_the_assistant_said_counts(template):
    tokenizer = byte_tokenizer()
    if template is None:
        tokenizer.chat_template = None
    record = load_triples([{"messages": CHAT, "reward": 1}, {"messages": CHAT, "reward": 2}])[0]
    start, prompt, rest, _ = encode_record(tokenizer, record)
    eos = tokenizer.eos_token
    assert start == "system: Be brief.\nuser: 1 + 1 = ?\nassistant: "
    assert tokenizer.decode(prompt + rest) == f"{start}2{eos}\nuser: 2 + 3 = ?\nassistant: 2 + 3 = 5{eos}"
    assert counted(tokenizer, record) == f"2{eos}2 + 3 = 5{eos}"


def test_a_template_without_marks_for_the_assistant_serves_as_well():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    record = load_triples([{"messages": CHAT, "reward": 1}, {"messages": CHAT, "reward": 2}])[0]
    assert counted(tokenizer, record) == f"2{tokenizer.eos_token}2 + 3 = 5{tokenizer.eos_token}"


def test_a_template_that_rewrites_earlier_turns_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    record = load_triples([{"messages": CHAT, "reward": 1}, {"messages": CHAT, "reward": 2}])[0]
    with pytest.raises(BadInput, match="changes earlier turns"):
        encode_record(tokenizer, record)


def chat_record(messages):
    return load_triples([{"messages": messages, "reward": 1}, {"messages": messages, "reward": 2}])[1]


# Gemma's refuses a system turn, and so do many; Mistral's wants user and assistant in turn.
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (NO_SYSTEM, CHAT, "System role not supported"),
        (ALTERNATING, [CHAT[1], CHAT[1], CHAT[2]], "Conversation roles must alternate"),
        ("{{ messages[0].content.no.such }}", CHAT, "'str object' has no attribute 'no'"),
        ("{% if %}", CHAT, "Expected an expression, got 'end of statement block'"),
        ("{{ messages | length + 'a' }}", CHAT, "unsupported operand"),
    ],
)
def test_a_template_that_refuses_a_chat_is_quoted_with_the_record(template, messages, words):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match="the records, row 2: The tokenizer's chat template refuses this chat: ") as error:
        encode_record(tokenizer, chat_record(messages))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# As Qwen3's: thoughts of earlier answers are cut out, and the last answer is given empty ones if it has none.
FORGETFUL = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
    "{% if not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% elif '</think>' in m.content %}{{ m.content }}{% else %}<think></think>{{ m.content }}{% endif %}"
    "{% else %}{{ m.content }}{% endif %}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_template_that_drops_earlier_thoughts_is_refused_and_a_single_answer_is_what_helps():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = FORGETFUL
    thoughts = {"role": "assistant", "content": "<think>easy</think>2"}
    with pytest.raises(BadInput, match=r"row 2: .* changes earlier turns .* chats with a single answer"):
        encode_record(tokenizer, chat_record([CHAT[1], thoughts, *CHAT[3:]]))
    assert counted(tokenizer, chat_record([CHAT[1], thoughts])) == f"<think>easy</think>2{tokenizer.eos_token}"
    assert counted(tokenizer, chat_record(CHAT[1:3])) == f"<think></think>2{tokenizer.eos_token}"


def test_a_template_without_the_answer_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(BadInput, match=r"row 2: .* leaves out what the assistant said"):
        encode_record(tokenizer, chat_record(CHAT[1:3]))


def test_a_tokenizer_may_have_several_templates():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "x"}
    assert counted(tokenizer, chat_record(CHAT[1:3])) == f"2{tokenizer.eos_token}"


# --- prompts --------------------------------------------------------------------------------------------------------------


def test_a_conversation_is_read_up_to_where_the_assistant_begins():
    tokenizer = byte_tokenizer()
    text = prompt_text(tokenizer, CHAT[:4], "here")
    assert text == f"system: Be brief.\nuser: 1 + 1 = ?\nassistant: 2{tokenizer.eos_token}\nuser: 2 + 3 = ?\nassistant: "
    ours = prompt_tokens(tokenizer, [CHAT[:2], CHAT[:4]], longest=200)
    theirs = tokenizer.apply_chat_template([CHAT[:2], CHAT[:4]], add_generation_prompt=True)["input_ids"]
    assert ours == theirs
    parts = [{"role": "user", "content": [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1 = ?"}]}]
    assert prompt_text(tokenizer, parts, "here") == "user: 1 + 1 = ?\nassistant: "
    assert prompt_text(tokenizer, "1 + 1 = ?", "here") == "1 + 1 = ?"


def test_a_conversation_is_sampled_as_its_text_is(tiny):
    _, tokenizer = tiny
    settings = {"num_generations": 1, "max_completion_length": 8, "temperature": 0.0}
    conversations = sample_completions(*tiny, [CHAT[:2], CHAT[1:2]], **settings)
    texts = sample_completions(*tiny, [prompt_text(tokenizer, p, "") for p in (CHAT[:2], CHAT[1:2])], **settings)
    assert conversations.completion_ids.tolist() == texts.completion_ids.tolist()
    assert conversations.completions == texts.completions
    assert conversations.prompts == [CHAT[:2], CHAT[1:2]]


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (NO_SYSTEM + "{{ messages[0].content }}", CHAT[:2], "System role not supported"),
        (ALTERNATING, [CHAT[1], CHAT[1]], "Conversation roles must alternate"),
        (
            FORGETFUL,
            [CHAT[1], {"role": "assistant", "content": "<think>easy</think>2"}, CHAT[3]],
            "thoughts of an earlier answer",
        ),
        ("{{ messages[-1].content }}", CHAT[:2], "leaves out a part of what the system said"),
    ],
)
def test_a_template_that_refuses_a_prompt_or_drops_a_part_is_told_with_the_row(template, messages, words):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match=f"the prompts, row 2: The tokenizer's chat template .*{words}"):
        prompt_tokens(tokenizer, [[CHAT[1]], messages], longest=200)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (5, "is 5; a prompt is a text or a list of messages"),
        ([], "without a message"),
        ([{"role": "tool", "content": "1"}], "the role 'tool'"),
        ([{"role": "user"}], "without content"),
        ([{"role": "user", "content": [{"type": "image"}]}], "with a part 'image'"),
        (CHAT, "ends with a turn of the assistant"),
        ("\ud83d", "half of a character"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_place(prompt, words):
    with pytest.raises(BadInput, match=f"mine.jsonl, row 3, .*{words}"):
        check_prompt(prompt, "mine.jsonl, row 3")


def test_texts_become_conversations_and_a_system_prompt_needs_one():
    settings = {"chat": True, "system_prompt": "Be brief.", "where": "row 1"}
    assert as_conversation("1 + 1 = ?", **settings) == CHAT[:2]
    assert as_conversation(CHAT[1:2], **settings | {"chat": False}) == CHAT[:2]
    assert as_conversation("1", **settings | {"chat": False, "system_prompt": None}) == "1"
    with pytest.raises(BadInput, match=r"row 1, is a plain text, .*--chat makes the text one"):
        as_conversation("1", **settings | {"chat": False})
    with pytest.raises(BadInput, match="row 1, has a turn of the system already"):
        as_conversation(CHAT[:2], **settings)
    assert (last_words("1"), last_words(CHAT[:2])) == ("1", "1 + 1 = ?")


def test_a_template_of_its_own_tells_a_model_of_conversations():
    tokenizer = byte_tokenizer()
    assert tokenizer.chat_template == PLAIN_CHAT_TEMPLATE
    assert not knows_conversations(tokenizer)
    tokenizer.chat_template = FORGETFUL
    assert knows_conversations(tokenizer)
