from collections import Counter

import pytest
import torch

from minigrpo import sampling
from minigrpo.config import LOWEST_TEMPERATURE, BadInput, GRPOConfig
from minigrpo.logprobs import completion_mask, token_logprobs
from minigrpo.policy import load_policy, save_policy
from minigrpo.run.cli import main
from minigrpo.sampling import _draw, completion_texts, encode_prompts, sample_completions
from minigrpo.scoring import completion_logits
from minigrpo.tasks import clock_task
from minigrpo.training import TrainState, train
from tests.tools.pretrain import byte_tokenizer

pytestmark = pytest.mark.quick

RAGGED = ["7*3+5*8-2+9=", "1 + 1 = ?", "1 + 1等于几?", "2"]


def sample(model, tokenizer, prompts=RAGGED, **changes):
    settings = {"num_generations": 3, "max_completion_length": 16, "generator": torch.Generator().manual_seed(0)}
    return sample_completions(model, tokenizer, prompts, **(settings | changes))


def score(model, rollout, temperature=1.0):
    logits = completion_logits(model, rollout.prompt_ids, rollout.prompt_mask, rollout.group_ids, rollout.completion_ids)
    return token_logprobs(logits, rollout.completion_ids, temperature)


@pytest.mark.parametrize("prompt", RAGGED)
def test_greedy_is_what_generate_gives_token_for_token(tiny, prompt):
    model, tokenizer = tiny
    ours = sample(model, tokenizer, [prompt], num_generations=1, temperature=0.0)
    encoded = tokenizer(prompt, return_tensors="pt")
    theirs = model.generate(**encoded, do_sample=False, max_new_tokens=16, pad_token_id=tokenizer.pad_token_id)
    expected = theirs[0, encoded["input_ids"].shape[1] :]
    assert ours.completion_ids[0].tolist() == expected.tolist()


def test_greedy_in_a_ragged_batch_is_greedy_alone(tiny):
    together = sample(*tiny, num_generations=1, temperature=0.0).completions
    assert together == [sample(*tiny, [p], num_generations=1, temperature=0.0).completions[0] for p in RAGGED]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
def test_log_probs_scored_are_log_probs_sampled(tiny, temperature):
    rollout = sample(*tiny, num_generations=8, temperature=temperature)
    scored = score(tiny[0], rollout, temperature)
    mask = rollout.completion_mask
    torch.testing.assert_close(scored[mask], rollout.logprobs[mask], rtol=0, atol=1e-5)
    if temperature != 1.0:
        assert (score(tiny[0], rollout)[mask] - rollout.logprobs[mask]).abs().max() > 0.1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_token_follows_softmax(tiny, temperature):
    """Pearson's chi-square over the tokens of expected count 5 and more, against its 0.999 quantile; the draws are seeded."""
    model, tokenizer = tiny
    n = 4000
    rollout = sample(model, tokenizer, ["7*3+5*8-2+9="], num_generations=n, temperature=temperature, max_completion_length=1)
    with torch.no_grad():
        logits = model(tokenizer("7*3+5*8-2+9=", return_tensors="pt")["input_ids"]).logits[0, -1]
    expected = n * (logits / temperature).softmax(-1)
    observed = torch.bincount(rollout.completion_ids[:, 0], minlength=len(expected)).float()
    common = expected >= 5
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    observed = torch.cat([observed[common], observed[~common].sum()[None]])
    chi_square = ((observed - expected) ** 2 / expected.clamp(min=1e-9))[expected > 1].sum().item()
    degrees = int((expected > 1).sum()) - 1
    assert 5 <= degrees <= 12
    quantile = {5: 20.5, 6: 22.5, 7: 24.3, 8: 26.1, 9: 27.9, 10: 29.6, 11: 31.3, 12: 32.9}[degrees]
    assert chi_square < quantile


@pytest.mark.parametrize("prompt", ["a", "abcde"])
def test_two_tokens_follow_the_product_of_their_probabilities(random_model, tokenizer, prompt):
    """Pearson's chi-square over all pairs of six tokens (one of them EOS), each by itself read by the model: the 0.999
    quantile. The other prompt of the batch is longer or shorter, and most completions share their node with others."""
    n, tokens = 20_000, [tokenizer.eos_token_id, 97, 98, 99, 100, 101]
    with torch.no_grad():
        random_model.lm_head.weight.mul_(0.5)
        bias = torch.full((len(tokenizer),), -1e4)
        bias[tokens] = 0.0
    random_model.lm_head.bias = torch.nn.Parameter(bias)

    def probabilities(text: list[int]):
        with torch.no_grad():
            return (random_model(torch.tensor([text])).logits[0, -1].double() / 1.3).softmax(-1)

    text = list(prompt.encode())
    first = probabilities(text)
    expected = {(tokens[0],): n * first[tokens[0]].item()}
    for a in tokens[1:]:
        second = probabilities([*text, a])
        expected |= {(a, b): n * (first[a] * second[b]).item() for b in tokens}
    settings = {"num_generations": n, "max_completion_length": 2, "temperature": 1.3}
    rollout = sample(random_model, tokenizer, [prompt, "abc"], **settings)
    rows = zip(rollout.completion_ids[:n].tolist(), rollout.completion_mask[:n].sum(1).tolist(), strict=True)
    observed = Counter(tuple(ids[:length]) for ids, length in rows)
    assert set(observed) <= set(expected)
    assert min(expected.values()) > 5
    assert sum((observed[pair] - count) ** 2 / count for pair, count in expected.items()) < 59.7  # 30 degrees


def test_the_first_eos_counts_and_nothing_follows_it(tiny):
    model, tokenizer = tiny
    rollout = sample(model, tokenizer, num_generations=8, max_completion_length=64)
    assert torch.equal(rollout.completion_mask, completion_mask(rollout.completion_ids, tokenizer.eos_token_id))
    assert (rollout.completion_ids[~rollout.completion_mask] == tokenizer.pad_token_id).all()
    assert (rollout.logprobs[~rollout.completion_mask] == 0).all()
    last = rollout.completion_mask.sum(1) - 1
    ends_with_eos = rollout.completion_ids.gather(1, last[:, None])[:, 0] == tokenizer.eos_token_id
    assert torch.equal(ends_with_eos, rollout.ended)
    assert rollout.ended.sum() > 20


def test_a_completion_that_was_cut_off_counts_whole_and_has_not_ended(tiny):
    rollout = sample(*tiny, num_generations=8, max_completion_length=4)
    long = ~rollout.ended
    assert long.any()
    assert rollout.completion_mask[long].all()
    assert rollout.completion_ids.shape[1] == 4


def test_the_model_runs_once_for_each_different_text_so_far_and_not_for_those_that_ended(tiny):
    model, tokenizer = tiny
    rows_read = []
    hook = model.base_model.register_forward_pre_hook(lambda module, args: rows_read.append(len(args[0])))
    rollout = sample(model, tokenizer, ["7*3+5*8-2+9="] * 4, num_generations=16)
    hook.remove()
    lengths = rollout.completion_mask.sum(1)
    written = [(int(group), *ids.tolist()) for group, ids in zip(rollout.group_ids, rollout.completion_ids, strict=True)]
    begun = [{text[: 1 + t] for text, length in zip(written, lengths, strict=True) if length > t} for t in range(lengths.max())]
    assert rows_read == [4, *map(len, begun)]  # first the prompts, all but their last token
    assert rows_read[2] > rows_read[-1]


def test_rows_are_prompt_major_and_texts_are_what_the_ids_say(tiny):
    model, tokenizer = tiny
    rollout = sample(model, tokenizer)
    assert rollout.group_ids.tolist() == [p for p in range(4) for _ in range(3)]
    assert rollout.prompts == [p for p in RAGGED for _ in range(3)]
    for row, text in enumerate(rollout.completions):
        assert tokenizer.decode(rollout.completion_ids[row][rollout.completion_mask[row]], skip_special_tokens=True) == text


def test_the_generator_is_the_only_source_of_randomness(tiny):
    global_state = torch.get_rng_state()
    first, again = sample(*tiny).completions, sample(*tiny).completions
    assert first == again
    assert first != sample(*tiny, generator=torch.Generator().manual_seed(1)).completions
    assert torch.equal(torch.get_rng_state(), global_state)


def test_dropout_is_refused(tiny):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match="train mode"):
        sample(model.train(), tokenizer)


def test_weights_that_have_blown_up_are_an_error_in_words(tiny):
    model, tokenizer = tiny
    with torch.no_grad():
        model.transformer.wte.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        sample(model, tokenizer)


def test_prompts_that_cannot_be_read_are_refused(tiny):
    model, tokenizer = tiny
    with pytest.raises(BadInput, match="is empty"):
        sample(model, tokenizer, ["1 + 1 = ?", ""])
    with pytest.raises(BadInput, match="has 241 tokens, and with the completion only 240 fit"):
        sample(model, tokenizer, ["9" * 241])
    assert len(sample(model, tokenizer, ["9" * 240]).completions) == 3


def test_any_text_encodes_and_comes_back(tokenizer):
    for text in ("7*3=", "1 + 1等于几?", "naïve 😀\n\t", "\x00\x7f"):
        ids, mask = encode_prompts(tokenizer, [text, "longer " * 9], longest=100)
        assert tokenizer.decode(ids[0][mask[0]]) == text
        assert ids[0][mask[0]].tolist() == list(text.encode())


def test_the_real_gpt2_goes_through_the_same_code(tmp_path, random_model, tokenizer):
    """A model of GPT-2's shape and random weights: pad and EOS the same token, a context of its own."""
    tokenizer.pad_token, kept = tokenizer.eos_token, tokenizer.pad_token
    random_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tokenizer.pad_token = kept
    model, loaded = load_policy(str(tmp_path))
    assert loaded.pad_token_id == loaded.eos_token_id
    rollout = sample(model, loaded, ["ab", "cdef", "g"], num_generations=20)
    mask = rollout.completion_mask
    torch.testing.assert_close(score(model, rollout)[mask], rollout.logprobs[mask], rtol=0, atol=1e-4)
    assert torch.equal(mask, completion_mask(rollout.completion_ids, loaded.eos_token_id))


def test_a_completion_ends_with_any_eos_of_the_generation_config(tiny):
    model, tokenizer = tiny
    settings = {"num_generations": 1, "temperature": 0.0, "max_completion_length": 32}
    free = sample(*tiny, ["1 + 1 = ?"], **settings)
    ends = int(free.completion_ids[0, 2])
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, ends]
    rollout = sample(*tiny, ["1 + 1 = ?"], **settings)
    first = free.completion_ids[0].tolist().index(ends)
    assert rollout.completion_ids[0].tolist() == free.completion_ids[0, : first + 1].tolist()
    assert rollout.completion_mask.all()
    assert rollout.ended.all()
    assert rollout.completions == [tokenizer.decode(free.completion_ids[0, :first])]
    encoded = tokenizer("1 + 1 = ?", return_tensors="pt")
    theirs = model.generate(**encoded, do_sample=False, max_new_tokens=32, pad_token_id=tokenizer.pad_token_id)
    assert theirs[0, encoded["input_ids"].shape[1] :].tolist() == rollout.completion_ids[0].tolist()


def test_rewards_see_special_tokens_but_for_eos_and_padding():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    think, eos, pad = tokenizer.convert_tokens_to_ids("<think>"), tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = [[think, 97, 98, eos], [97, think, pad, 98], [eos]]
    assert completion_texts(tokenizer, rows, [eos]) == ["<think>ab", "a<think>b", ""]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temperature": -1.0}, "temperature must be 0 .greedy., or at least 1e-06, got -1.0"),
        ({"temperature": 1e-45}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"temperature": float("inf")}, "temperature must be 0"),
        ({"num_generations": 0}, "num_generations must be at least 1, got 0"),
        ({"max_completion_length": 0}, "max_completion_length must be at least 1, got 0"),
        ({"max_completion_length": 5000}, r"max_completion_length is 5000, and the model's context takes \d+ tokens"),
        ({"prompts": "1 + 1 = ?"}, "a list of texts, got a single text"),
        ({"prompts": {"prompt": ["1"], "answer": ["2"]}}, "a list of texts, got a dict of columns"),
        ({"prompts": []}, "There are no prompts"),
        ({"prompts": ["1", 2]}, "the prompts, row 2, is 2; a prompt is a text or a list of messages"),
        ({"prompts": [{"role": "user", "content": "1"}]}, "a single conversation is a list of its messages"),
        ({"prompts": [[]]}, "row 1, is a conversation without a message"),
        ({"prompts": ["1", "\ud83d"]}, "row 2, holds .* half of a character"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_a_sentence(tiny, change, sentence):
    with pytest.raises(BadInput, match=sentence):
        sample(*tiny, **change)


def test_the_lowest_temperature_is_greedy(tiny):
    cold = sample(*tiny, num_generations=1, temperature=LOWEST_TEMPERATURE)
    assert cold.completions == sample(*tiny, num_generations=1, temperature=0.0).completions
    assert torch.isfinite(cold.logprobs).all()


def test_a_draw_is_the_token_whose_share_holds_the_number():
    """Shares of 0, 1/4, 0, 3/4 and 0: the borders of a token of no probability are never its own."""
    logits = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0]).log().clamp(min=-1e4)
    for number, token in ((0.0, 1), (0.2, 1), (0.25, 3), (0.26, 3), (1 - 2**-53, 3)):
        assert _draw(logits[None], 1.0, torch.tensor([[number]], dtype=torch.float64)).tolist() == [[token]]


def test_a_float64_model_samples_in_float64(random_model, tokenizer):
    rollout = sample(random_model.double(), tokenizer)
    assert rollout.logprobs.dtype == torch.float64
    mask = rollout.completion_mask
    torch.testing.assert_close(score(random_model, rollout)[mask], rollout.logprobs[mask])


@pytest.mark.parametrize("rows", [True, False], ids=["read once", "read anew"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_draws_are_the_same_however_many_are_drawn_at_a_time(tiny, monkeypatch, batch_size, rows):
    monkeypatch.setattr(sampling, "cache_has_rows", lambda model: rows)
    whole = sample(*tiny)
    read = []
    hook = lambda module, args, inputs: read.append(len(args[0] if args else inputs["input_ids"]))  # noqa: E731
    tiny[0].base_model.register_forward_pre_hook(hook, with_kwargs=True)
    parts = sample(*tiny, batch_size=batch_size)
    assert max(read) <= batch_size
    assert parts.completions == whole.completions
    assert torch.equal(parts.completion_ids, whole.completion_ids)
    torch.testing.assert_close(parts.logprobs, whole.logprobs, rtol=0, atol=1e-5)


def test_plain_texts_for_a_model_of_conversations_are_noted_once(tiny, tmp_path, caplog):
    """In Python and by a command with the same words; never for conversations, nor with the bundled model's plain lines."""
    model, tokenizer = tiny
    sample(model, tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}"
    save_policy(model, tokenizer, tmp_path)
    model, tokenizer = load_policy(str(tmp_path))
    sample(model, tokenizer, [[{"role": "user", "content": "1"}]])
    assert caplog.messages == []
    task = clock_task()
    config = GRPOConfig(generation_batch_size=4, num_generations=2, max_completion_length=2, max_steps=2)
    for _ in train(TrainState.start(model, tokenizer, config), task.train, [task.reward], config):
        pass
    (said,) = caplog.messages
    assert f"the tokenizer of '{tmp_path}' has a chat template" in said
    sampling._say_once.cache_clear()
    assert main(["generate", "--model", str(tmp_path), "1 + 1 = ?", "1 + 2 = ?"]) == 0
    assert caplog.messages == [said, said]
    assert main(["generate", "--model", str(tmp_path), "--chat", "1 + 1 = ?"]) == 0
    assert len(caplog.messages) == 2
