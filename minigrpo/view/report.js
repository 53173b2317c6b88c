"use strict";

// --- the algebra: named as in advantages.py, kl.py and loss.py, on single numbers ---------------------------------------

const EPS = 1e-4; // added to the standard deviation
const LARGEST_LOG = 20; // beyond it k3 goes on as its tangent
const CISPO_CAP = 5; // of a run that was not trained with cispo, and so has none

const sum = (values) => values.reduce((total, value) => total + value, 0);

function statistics(values) {
  const least = Math.min(...values); // measured from it, equal values differ by exactly 0
  const deviations = values.map((value) => value - least);
  const mean = sum(deviations) / values.length;
  const variance = sum(deviations.map((x) => (x - mean) ** 2)) / Math.max(values.length - 1, 1);
  return { mean: least + mean, std: Math.sqrt(variance) };
}

/** A null among the rewards: no reward function had an opinion. Returns a list of { value, mean, std }. */
function computeAdvantages(rewards, groupIds, scaleRewards) {
  const valid = (wanted) => rewards.filter((reward, i) => reward !== null && wanted(i));
  const all = statistics(valid(() => true));
  const groups = new Map([...new Set(groupIds)].map((id) => [id, statistics(valid((i) => groupIds[i] === id))]));
  return rewards.map((reward, i) => {
    const { mean, std } = groups.get(groupIds[i]);
    const scale = { group: std, batch: all.std }[scaleRewards];
    const value = reward === null ? 0 : (reward - mean) / (scale === undefined ? 1 : scale + EPS);
    return { value, mean, std: scale };
  });
}

function klPenalizedRewards(rewards, oldLogprobs, refLogprobs, mask, beta) {
  const k1 = (i) => sum(oldLogprobs[i].map((old, t) => (mask[i][t] ? klK1(old, refLogprobs[i][t]) : 0)));
  return rewards.map((reward, i) => (reward === null ? null : reward - beta * k1(i)));
}

const klK1 = (logprob, refLogprob) => logprob - refLogprob;
const klK2 = (logprob, refLogprob) => 0.5 * klK1(logprob, refLogprob) ** 2;
function klK3(logprob, refLogprob) {
  const logR = refLogprob - logprob;
  const capped = Math.min(logR, LARGEST_LOG);
  return Math.expm1(capped) + Math.exp(capped) * Math.max(logR - LARGEST_LOG, 0) - logR;
}
const klK3Ratio = (logprob, refLogprob, oldLogprob) => Math.exp(logprob - oldLogprob) * klK3(logprob, refLogprob);

/** The estimator of that name, and its derivative by the log-prob. */
function estimateKl(estimator, logprob, refLogprob, oldLogprob) {
  const k3Slope = -Math.expm1(Math.min(refLogprob - logprob, LARGEST_LOG));
  if (estimator === "k1") return { value: klK1(logprob, refLogprob), slope: 1 };
  if (estimator === "k2") return { value: klK2(logprob, refLogprob), slope: logprob - refLogprob };
  if (estimator === "k3") return { value: klK3(logprob, refLogprob), slope: k3Slope };
  const value = klK3Ratio(logprob, refLogprob, oldLogprob);
  return { value, slope: value + Math.exp(logprob - oldLogprob) * k3Slope };
}

/** One per token; at the level of a sequence all the same: the geometric mean. */
function importanceRatio(logprobs, oldLogprobs, mask, level) {
  const logRatio = logprobs.map((logprob, t) => (mask[t] ? logprob - oldLogprobs[t] : 0));
  if (level === "token") return logRatio.map(Math.exp);
  const mean = sum(logRatio) / Math.max(sum(mask), 1);
  return logRatio.map(() => Math.exp(mean));
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const clippedObjective = (ratio, advantage, epsilon, epsilonHigh) =>
  Math.min(ratio * advantage, clamp(ratio, 1 - epsilon, 1 + epsilonHigh) * advantage);

const cispoObjective = (ratio, logprob, advantage, cap) => Math.min(ratio, cap) * advantage * logprob;

/** What aggregate() multiplies a token's value with, as the factors of its denominator. */
function aggregate(lossType, length, { numSequences, numTokens, maxCompletionLength }) {
  if (lossType === "grpo") return [numSequences, length];
  if (lossType === "dr_grpo") return [numSequences, maxCompletionLength];
  return [numTokens];
}

/** Every number of every token that counts, and the loss; push is minus the derivative of the loss by the log-prob. */
function grpoLoss(step, settings) {
  const { lossType, level, estimator } = settings;
  const cispo = lossType === "cispo";
  const beta = settings.klInReward || !step.ref_logprobs ? 0 : settings.beta;
  const numSequences = step.group_ids.length;
  const numTokens = step.num_tokens;
  const advantages = stepAdvantages(step, settings);
  const rows = step.tokens.map((tokens, i) => {
    if (!tokens || !step.logprobs) return null; // left out of the page, or never written down
    const logprobs = step.logprobs[i];
    const mask = step.completion_mask[i];
    const oldLogprobs = step.old_logprobs ? step.old_logprobs[i] : logprobs; // unknown: the policy at its own update
    const ratios = importanceRatio(logprobs, oldLogprobs, mask, level);
    const denominator = aggregate(lossType, Math.max(sum(mask), 1), { ...settings, numSequences, numTokens });
    const weight = 1 / denominator.reduce((a, b) => a * b);
    const advantage = advantages[i].value;
    return logprobs.map((logprob, t) => {
      if (!mask[t]) return null;
      const [ratio, old] = [ratios[t], oldLogprobs[t]];
      const ref = step.ref_logprobs ? step.ref_logprobs[i][t] : null;
      const kl = ref === null ? null : estimateKl(estimator, logprob, ref, old);
      const objective = cispo
        ? cispoObjective(ratio, logprob, advantage, settings.cap)
        : clippedObjective(ratio, advantage, settings.epsilon, settings.epsilonHigh);
      const clipped = cispo ? ratio > settings.cap && advantage > 0 : objective < ratio * advantage;
      const slope = cispo ? Math.min(ratio, settings.cap) * advantage : clipped ? 0 : ratio * advantage;
      const pull = kl ? -weight * beta * kl.slope : 0;
      const loss = weight * (beta * (kl ? kl.value : 0) - objective);
      const push = weight * slope + pull;
      const known = { logprob, old, ref, ratio, advantage, objective, clipped, slope, weight, denominator };
      return { ...known, kl: kl && kl.value, klSlope: kl && kl.slope, beta, pull, loss, push };
    });
  });
  const counted = rows.flatMap((row) => row || []).filter((token) => token);
  const complete = counted.length === numTokens;
  const loss = complete && counted.length ? sum(counted.map((token) => token.loss)) : null;
  return { rows, advantages, counted, loss };
}

/** Made anew from the rewards where the run made them so, else as they were written down (those of records, say). */
function stepAdvantages(step, settings) {
  if (!step.from_rewards) return step.advantages.map((value) => ({ value }));
  const penalized = settings.klInReward && settings.beta && step.ref_logprobs;
  const inputs = [step.rewards, step.old_logprobs, step.ref_logprobs, step.completion_mask, settings.beta];
  return computeAdvantages(penalized ? klPenalizedRewards(...inputs) : step.rewards, step.group_ids, settings.scaleRewards);
}

// --- what is on the page ------------------------------------------------------------------------------------------------

const { runs, metrics } = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["var(--blue)", "var(--orange)", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777"];
const steps = [...new Set(runs.flatMap((run) => run.kept.map((kept) => kept.step)))].sort((a, b) => a - b);
const chosen = { step: steps.length - 1, color: "logprob", epsilon: null, beta: null, lossType: null, scaleRewards: null };
let selected = null; // { run, row, token }
let views = []; // of each run: { run, step, result }

const $ = (id) => document.getElementById(id);

/** An element: attributes, listeners (on...), and children, which are texts or elements. */
function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "circle", "text"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Three digits to read, all of them in the attribute. */
function number(value, name = null) {
  return el("data", { value: String(value), "data-name": name, title: String(value) }, short(value));
}

function short(value) {
  if (value === null || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(size >= 1000 ? 5 : 3)));
  return text.replaceAll("-", "−");
}

/** The settings that hold for a run: its own, but for what was chosen on the page. */
function settingsOf(run) {
  const own = run.config;
  const lossType = chosen.lossType ?? own.loss_type;
  const epsilon = chosen.epsilon ?? own.epsilon;
  const highIsCap = own.loss_type === "cispo";
  return {
    lossType,
    epsilon,
    epsilonHigh: (highIsCap ? null : own.epsilon_high) ?? epsilon,
    cap: (highIsCap ? own.epsilon_high : null) ?? CISPO_CAP,
    beta: chosen.beta ?? own.beta,
    scaleRewards: chosen.scaleRewards ?? own.scale_rewards,
    level: own.importance_sampling_level,
    estimator: own.kl_estimator === "exact" ? "k3_ratio" : own.kl_estimator,
    klInReward: own.kl_in_reward,
    maxCompletionLength: own.max_completion_length,
  };
}

// --- curves -------------------------------------------------------------------------------------------------------------

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [340, 150, 44, 8, 8, 18];
const pointers = []; // functions that move a panel's line to a step

function movingMean(values, window) {
  return values.map((_, i) => {
    const reach = Math.min(Math.floor(window / 2), i, values.length - 1 - i);
    return sum(values.slice(i - reach, i + reach + 1)) / (2 * reach + 1);
  });
}

/** Two to six round numbers from low to high. */
function roundTicks(low, high) {
  const size = 10 ** Math.floor(Math.log10((high - low) / 2));
  const gap = [1, 2, 5, 10].map((factor) => factor * size).find((wide) => (high - low) / wide <= 5.2);
  const ticks = [];
  for (let k = Math.ceil(low / gap - 1e-9); k * gap <= high + 1e-9 * gap; k++) ticks.push(Number((k * gap).toPrecision(12)));
  return ticks;
}

/** A tick with as many digits as tell it from its neighbours, and no more than the margin holds. */
function tickText(value, gap) {
  if (value === 0) return "0";
  const [size, place] = [Math.abs(value), (number) => Math.floor(Math.log10(number) + 1e-6)];
  const digits = Math.max(1, 1 + place(size) - place(gap));
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

/** A metric's points in each run, and where they lie in the drawing. */
function plan(metric) {
  const series = runs.map((run, k) => {
    const points = run.curves.step.map((step, i) => [step, run.curves[metric.name]?.[i] ?? null]);
    return { color: COLORS[k % COLORS.length], points: points.filter(([, value]) => value !== null) };
  });
  const values = series.flatMap(({ points }) => points.map(([, value]) => value));
  let [low, high] = [Math.min(0, ...values), Math.max(...values)];
  if (Math.min(...values) > 0.7 * high) low = Math.min(...values); // far from 0: what moves would not be seen
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const least = Math.abs(high) / 100; // what moves less is noise, and the margin would not hold the digits that tell it apart
  if (high - low < least) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
  const steps = [...new Set(runs.flatMap((run) => run.curves.step))].sort((a, b) => a - b);
  const [first, last, width] = [steps[0], steps.at(-1), WIDTH - LEFT - RIGHT];
  return {
    series,
    steps,
    ticks: roundTicks(low, high),
    x: (step) => LEFT + ((step - first) / (last - first || 1)) * width,
    y: (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - BOTTOM - TOP),
    stepAt: (x) => first + ((x - LEFT) / width) * (last - first),
  };
}

function panel(metric) {
  const { series, steps, ticks, x, y, stepAt } = plan(metric);
  const label = `${metric.name}: ${metric.meaning}`;
  const svg = el("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: 0, role: "img", "aria-label": label });
  for (const value of ticks) {
    svg.append(el("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(el("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, tickText(value, ticks[1] - ticks[0])));
  }
  svg.append(el("text", { x: LEFT, y: HEIGHT - 3 }, `step ${steps[0]}`));
  svg.append(el("text", { x: WIDTH - RIGHT, y: HEIGHT - 3, "text-anchor": "end" }, steps.at(-1)));
  const place = ([step, value]) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
  for (const { color, points } of series) {
    const means = movingMean(points.map(([, value]) => value), 9);
    const smooth = points.map(([step], i) => [step, means[i]]);
    for (const [kind, line] of [["raw", points], ["mean", smooth]]) {
      if (line.length) svg.append(el("path", { class: kind, d: `M${line.map(place).join("L")}`, stroke: color }));
    }
  }
  const readout = el("output");
  pointers.push(pointer(svg, readout, series, x, y));
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const wanted = stepAt(((event.clientX - box.left) / box.width) * WIDTH);
    return steps.reduce((best, step) => (Math.abs(step - wanted) < Math.abs(best - wanted) ? step : best));
  };
  svg.addEventListener("pointermove", (event) => point(nearest(event)));
  svg.addEventListener("click", (event) => showStep(nearest(event)));
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) point(steps[clamp(steps.indexOf(pointed) + move, 0, steps.length - 1)]);
    if (event.key === "Enter") showStep(pointed);
    if (move || event.key === "Enter") event.preventDefault();
  });
  const unit = metric.unit === metric.name ? "" : ` ${metric.unit}`;
  const title = el("figcaption", { title: `${metric.meaning} ${metric.healthy}` }, el("b", {}, metric.name), unit);
  return el("figure", {}, title, svg, readout);
}

/** What moves a panel's line to a step, puts dots on the curves there, and says their values. */
function pointer(svg, readout, series, x, y) {
  const line = svg.appendChild(el("line", { class: "pointer", y1: TOP, y2: HEIGHT - BOTTOM }));
  const dots = series.map(({ color }) => svg.appendChild(el("circle", { r: 3.5, fill: color })));
  return (step) => {
    line.setAttribute("x1", x(step));
    line.setAttribute("x2", x(step));
    readout.replaceChildren(`step ${step}: `);
    series.forEach(({ color, points }, k) => {
      const value = points.find(([at]) => at === step)?.[1];
      dots[k].setAttribute("visibility", value === undefined ? "hidden" : "visible");
      dots[k].setAttribute("cx", x(step));
      dots[k].setAttribute("cy", value === undefined ? 0 : y(value));
      readout.append(k ? ", " : "", el("span", { style: `color:${color}` }, value === undefined ? "–" : String(value)));
    });
  };
}

let pointed = null;

function point(step) {
  pointed = step;
  pointers.forEach((move) => move(step));
}

// --- one step: groups, completions, tokens --------------------------------------------------------------------------------

const COLORINGS = {
  logprob: { label: "log-prob (nats)", of: (token) => token.logprob, end: (x) => x },
  ratio: { label: "ratio", of: (token) => Math.log(token.ratio), end: Math.exp },
  advantage: { label: "advantage", of: (token) => token.advantage, end: (x) => x },
  kl: { label: "KL (nats)", of: (token) => token.kl, end: (x) => x },
  push: { label: "push", of: (token) => token.push, end: (x) => x },
};

/** The run's kept step, or the last one before it. */
function keptStep(run) {
  return run.kept.findLast((kept) => kept.step <= steps[chosen.step]) ?? run.kept[0];
}

/** Nearly the largest size, so that a single token does not take the colour from all others. */
function largest(values) {
  const sizes = values.map(Math.abs).filter((size) => size > 0 && Number.isFinite(size)).sort((a, b) => a - b);
  return sizes.length ? sizes[Math.min(sizes.length - 1, Math.floor(sizes.length * 0.98))] : 1;
}

const advantagesOf = (result) => (result ? result.advantages : []).map(({ value }) => value);

function showStep(step) {
  const before = steps.filter((kept) => kept <= step);
  chosen.step = Math.max(before.length - 1, 0);
  selected = null;
  show();
}

function show() {
  if (!steps.length) return;
  $("slider").value = chosen.step;
  $("step").textContent = steps[chosen.step];
  point(steps[chosen.step]);
  views = runs.map((run) => {
    const step = run.kept.length ? keptStep(run) : null;
    return { run, step, result: step && grpoLoss(step, settingsOf(run)) };
  });
  const counted = views.flatMap(({ result }) => (result ? result.counted : []));
  $("color").disabled = !counted.length; // completions without log-probs show their advantage
  $("color").value = counted.length ? chosen.color : "advantage";
  const { label, of, end } = COLORINGS[$("color").value];
  const limit = largest(counted.length ? counted.map(of) : views.flatMap(({ result }) => advantagesOf(result)));
  const ends = [end(-limit), end(0), end(limit)].map(short);
  $("scale").replaceChildren(`${label}: `, ends[0], el("span", { class: "bar" }), ends[2], ` (no colour: ${ends[1]})`);
  const shade = (token) => of(token) / limit;
  $("views").replaceChildren(...views.map((view, k) => column(view, k, shade)));
  explain();
}

function column({ run, step, result }, k, shade) {
  const swatch = el("span", { class: "swatch", style: `background:${COLORS[k % COLORS.length]}` });
  const head = el("h3", { hidden: runs.length === 1 }, swatch, run.name);
  if (!step) return el("div", { class: "run" }, head, el("p", {}, "This run kept no completions."));
  const groups = [...new Set(step.group_ids)].map((id) => {
    const rows = step.group_ids.flatMap((group, i) => (group === id ? [i] : []));
    const known = rows.map((i) => step.rewards[i]).filter((reward) => reward !== null);
    return { id, rows, contrast: known.length ? statistics(known).std : 0 };
  });
  groups.sort((a, b) => b.contrast - a.contrast);
  const shown = groups.filter(({ rows }) => rows.some((i) => step.tokens[i]));
  const silent = groups.filter(({ rows, contrast }) => rows.length > 1 && contrast === 0).length;
  const clipped = result.counted.filter((token) => token.clipped).length / (result.counted.length || 1);
  const facts = el("p", { class: "facts" }, `step ${step.step}: `);
  facts.append("reward ", number(statistics(step.rewards.filter((reward) => reward !== null)).mean));
  if (result.loss !== null) {
    facts.append(", loss ", number(result.loss, `loss-${k}`), ", share clipped ", number(clipped, `clipped-${k}`));
  }
  facts.append(`, ${silent} of ${groups.length} groups silent`);
  const missing = groups.length - shown.length;
  if (missing) facts.append(`; ${missing} groups of less contrast are left out of this page`);
  if (!step.logprobs) facts.append("; this run kept no tokens, so a completion is shown whole, coloured by its advantage");
  const details = shown.map((group, rank) => groupView(group, rank, step, result, k, shade));
  return el("div", { class: "run" }, head, facts, el("div", { class: "groups" }, ...details));
}

const opened = new Set([0, 1, 2]); // by rank, so that they stay open as the step changes

function groupView({ id, rows, contrast }, rank, step, result, k, shade) {
  const equal = rows.length > 1 ? "silent: all rewards are equal" : "one completion";
  const what = el("small", {}, contrast ? `contrast ${short(contrast)}` : equal);
  const details = el("details", { open: opened.has(rank) }, el("summary", {}, el("code", {}, step.prompts[id]), what));
  const fill = () => {
    const sorted = [...rows].sort((a, b) => result.advantages[b].value - result.advantages[a].value);
    const alike = Map.groupBy(sorted, (i) => JSON.stringify([step.tokens[i], step.rewards[i], step.advantages[i]]));
    details.append(...[...alike.values()].map((same) => completionView(same[0], same.length, step, result, k, shade)));
  };
  if (details.open) fill();
  details.addEventListener("toggle", () => {
    details.open ? opened.add(rank) : opened.delete(rank);
    if (details.open && details.childElementCount === 1) fill();
  });
  return details;
}

/** Completion i, which was drawn so many times. */
function completionView(i, times, step, result, k, shade) {
  const advantage = result.advantages[i].value;
  const whole = advantage / largest(advantagesOf(result));
  const tokens = step.tokens[i].map((text, t) => {
    const token = result.rows[i]?.[t];
    const value = token ? shade(token) : step.logprobs ? NaN : whole;
    const counts = step.completion_mask[i][t];
    const isSelected = selected && selected.run === k && selected.row === i && selected.token === t;
    return el(
      "span",
      {
        class: `token${token?.clipped ? " clipped" : ""}${counts ? "" : " read"}${isSelected ? " selected" : ""}`,
        style: `background:${tint(value)}`,
        role: "button",
        tabindex: isSelected || t === 0 ? 0 : -1,
        "data-at": `${k} ${i} ${t}`,
        title: counts ? null : "not counted: it is read, not learnt from",
      },
      step.logprobs ? inText(text) : text, // without log-probs it is a whole completion
    );
  });
  const cut = step.ended && !step.ended[i] ? el("small", { class: "cut" }, "cut off") : null;
  const reward = el("span", { class: "reward" }, "R ", number(step.rewards[i]), " A ", number(advantage));
  if (times > 1) reward.append(el("b", {}, ` × ${times}`));
  return el("div", { class: "completion" }, reward, el("span", { class: "tokens" }, ...tokens), cut);
}

/** −1 orange, 0 nothing, 1 blue. */
function tint(value) {
  if (!Number.isFinite(value)) return "none";
  const color = value < 0 ? "var(--orange)" : "var(--blue)";
  return `color-mix(in srgb, ${color} ${Math.round(Math.min(Math.abs(value), 1) * 70)}%, transparent)`;
}

function select(element) {
  const [run, row, token] = element.dataset.at.split(" ").map(Number);
  selected = { run, row, token };
  for (const former of document.querySelectorAll(".selected")) former.classList.remove("selected");
  element.classList.add("selected");
  element.focus({ preventScroll: true });
  explain();
  const hidden = element.getBoundingClientRect().bottom + 12 - $("formula").getBoundingClientRect().top;
  if (hidden > 0) scrollBy({ top: hidden }); // from under the formula
}

// --- the formula of one token ---------------------------------------------------------------------------------------------

const minus = (value) => [value < 0 ? " + " : " − ", number(Math.abs(value))];
const ESCAPES = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
const printable = (text) => text.replace(/\p{Cc}/gu, (c) => ESCAPES[c] ?? `\\x${c.charCodeAt().toString(16).padStart(2, "0")}`);
/** A line break can be seen and chosen, and still breaks the line; a token without text is two quotes. */
const inText = (token) => token.split("\n").map(printable).join("\\n\n") || "''";

function explain() {
  $("formula").hidden = !selected;
  if (!selected) return;
  const { run, step, result } = views[selected.run];
  const [i, t] = [selected.row, selected.token];
  const lines = [...formulaOfAdvantage(step, settingsOf(run), result.advantages[i], i)];
  const token = result.rows[i]?.[t];
  if (token) lines.push(...formulaOfToken(token, settingsOf(run), step, i));
  else if (!step.logprobs) lines.push(["tokens", "not kept by this run: there is no tokens.jsonl"]);
  else lines.push(["mask", "0: this token is read and not learnt from"]);
  const where = `token ${t + 1} of ${step.tokens[i].length}, step ${step.step}, ${run.name}`;
  $("token").replaceChildren(el("code", {}, printable(step.tokens[i][t])), ` ${where}`);
  $("lines").replaceChildren(...lines.flatMap(([name, ...parts]) => [el("dt", {}, name), el("dd", {}, ...parts)]));
}

function formulaOfAdvantage(step, settings, { value, mean, std }, i) {
  const [reward, result] = [step.rewards[i], number(value, "advantage")];
  if (!step.from_rewards) return [["A", "advantage, as the run wrote it down: ", result]];
  if (reward === null) return [["A", "no reward function had an opinion: ", result]];
  const penalty = settings.klInReward && settings.beta ? ["R − ", number(settings.beta), " · Σ k1"] : [number(reward)];
  const difference = [...penalty, ...minus(mean)];
  if (std === undefined) return [["A", "R − mean = ", ...difference, " = ", result]];
  return [["A", "(R − mean) / (std + 0.0001) = (", ...difference, ") / (", number(std), " + 0.0001) = ", result]];
}

function formulaOfToken(token, settings, step, i) {
  const { ratio, advantage, objective, weight } = token;
  const cispo = settings.lossType === "cispo";
  const [low, high] = [1 - settings.epsilon, 1 + settings.epsilonHigh];
  const product = [number(ratio), " · ", number(advantage)];
  const own = ["exp(log-prob now − at sampling) = exp(", number(token.logprob), ...minus(token.old), ")"];
  const sequence = ["exp(mean of log-prob now − at sampling over ", String(sum(step.completion_mask[i])), " tokens)"];
  const lines = [["r", ...(settings.level === "token" ? own : sequence), " = ", number(ratio, "ratio")]];
  if (!step.old_logprobs) lines[0] = ["r", "the policy at its own update: ", number(ratio, "ratio")];
  const result = [" = ", number(objective, "objective")];
  const capped = [number(Math.min(ratio, settings.cap)), " · ", number(advantage), " · ", number(token.logprob)];
  const least = ["min(", ...product, ", ", number(clamp(ratio, low, high)), " · ", number(advantage), ")"];
  if (cispo) lines.push(["objective", "min(r, ", number(settings.cap), ") · A · log-prob = ", ...capped, ...result]);
  else lines.push(["objective", "min(r · A, clip(r, ", number(low), ", ", number(high), ") · A) = ", ...least, ...result]);
  if (token.kl !== null) lines.push(["KL", ...formulaOfKl(token, settings), " = ", number(token.kl, "kl")]);
  const denominator = token.denominator.flatMap((factor, k) => (k ? [" · ", String(factor)] : [String(factor)]));
  const named = { grpo: "completions · its tokens", dr_grpo: "completions · longest allowed" };
  const factors = named[settings.lossType] ?? "tokens of the step";
  lines.push(["weight", `1 / (${factors}) = 1 / (`, ...denominator, ") = ", number(weight, "weight")]);
  const penalty = token.beta ? [" + ", number(token.beta), " · ", number(token.kl)] : [];
  const parts = [number(weight), " · (", number(-objective), ...penalty, ") = ", number(token.loss, "loss")];
  lines.push(["loss", "weight · (−objective", token.beta ? " + β · KL" : "", ") = ", ...parts]);
  const push = number(token.push, "push");
  const stopped = token.clipped && !cispo;
  const policy = (value) => (stopped ? [value, ": clipped"] : ["weight · ", cispo ? "min(r, cap)" : "r", " · A = ", value]);
  const together = ["; of the KL ", number(token.pull), "; together ", push];
  lines.push(["push", ...(token.beta ? [...policy(number(weight * token.slope)), ...together] : policy(push))]);
  return lines;
}

function formulaOfKl({ logprob, ref, old }, { estimator }) {
  const difference = [number(logprob), ...minus(ref)];
  if (estimator === "k1") return ["k1 = ", ...difference];
  if (estimator === "k2") return ["k2 = (", ...difference, ")² / 2"];
  const d = ["d = log-prob of the reference − now = ", number(ref), ...minus(logprob), " = ", number(ref - logprob), "; "];
  if (estimator === "k3") return [...d, "exp(d) − 1 − d"];
  const ratio = number(Math.exp(logprob - old));
  return [...d, "token's ratio · (exp(d) − 1 − d) = ", ratio, " · ", number(klK3(logprob, ref))];
}

// --- controls -------------------------------------------------------------------------------------------------------------

function start() {
  for (const metric of metrics) $(metric.main ? "curves" : "more").append(panel(metric));
  $("theme").addEventListener("click", () => {
    const { colorScheme } = getComputedStyle(document.documentElement); // "light dark" until one was chosen
    const now = colorScheme === "dark" || (colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.style.colorScheme = now ? "light" : "dark";
  });
  if (runs[0].curves.step.length) point(runs[0].curves.step.at(-1));
  if (!steps.length) return;
  $("slider").max = steps.length - 1;
  $("slider").addEventListener("input", (event) => showStep(steps[event.target.value]));
  for (const id of ["color", "epsilon", "beta", "lossType", "scaleRewards"]) {
    $(id).addEventListener("input", ({ target }) => {
      if (!target.checkValidity()) return;
      chosen[id] = target.type === "number" ? (target.value === "" ? null : Number(target.value)) : target.value || null;
      show();
    });
  }
  $("reset").addEventListener("click", () => {
    for (const id of ["epsilon", "beta", "lossType", "scaleRewards"]) $(id).value = chosen[id] = null;
    for (const id of ["lossType", "scaleRewards"]) $(id).selectedIndex = 0;
    show();
  });
  $("close").addEventListener("click", () => ((selected = null), show()));
  $("views").addEventListener("click", ({ target }) => target.dataset.at && select(target));
  document.addEventListener("keydown", moveAmongTokens);
  show();
}

/** Arrows move among tokens and completions, Enter or space chooses, Escape closes. */
function moveAmongTokens(event) {
  if (event.key === "Escape" && selected) return $("close").click();
  const token = event.target.closest?.(".token");
  if (!token) return;
  const lines = [...document.querySelectorAll(".completion")];
  const line = token.closest(".completion");
  const beside = { ArrowLeft: token.previousElementSibling, ArrowRight: token.nextElementSibling }[event.key];
  const other = lines[lines.indexOf(line) + ({ ArrowUp: -1, ArrowDown: 1 }[event.key] ?? NaN)];
  const place = [...token.parentElement.children].indexOf(token);
  const next = beside ?? (other && [...other.querySelectorAll(".token")].slice(0, place + 1).at(-1));
  if (next) selected ? select(next) : next.focus();
  else if (event.key === "Enter" || event.key === " ") select(token);
  else return;
  event.preventDefault();
}

start();
