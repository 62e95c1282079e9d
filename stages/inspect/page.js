// Draws the page from its own data. Every element is made with text nodes, so a token's text can't become markup.
"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const ROOT = -1;
  const GROUPS_LISTED = 200; // at a time
  const TOKENS_DRAWN = 4000; // of one rollout, until asked for the rest
  const NODES_OPEN = 48; // of a tree at first
  const STRIP = 80; // stretches of the small strip in a rollout's head

  // Elements

  const SVG = "http://www.w3.org/2000/svg";
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("--")) element.style.setProperty(name, value);
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return element;
  }
  const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

  // Data

  // Characters that draw nothing or turn the direction of what follows are written as escapes, but for those that choose
  // between two pictures of one character.
  const UNSEEN = /(?![\t\n\ufe00-\ufe0f])[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\ufff9-\ufffb]/gu;
  const escaped = (one) => {
    const code = one.codePointAt(0).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
  };
  const visible = (text) => text.replace(UNSEEN, escaped);
  function legible(value) { // all strings in it
    if (typeof value === "string") return visible(value);
    if (Array.isArray(value)) return value.map(legible);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [visible(name), legible(each)]));
  }

  const page = JSON.parse($("content").textContent);
  for (const part of ["file", "history", "groups", "rollouts", "texts"]) page[part] = legible(page[part]);
  page.statistics.flags = legible(page.statistics.flags);
  const { texts } = page;
  const KINDS = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u4: Uint32Array, u2: Uint16Array, u1: Uint8Array };
  async function unpacked(base64) {
    const packed = atob(base64);
    const bytes = new Uint8Array(packed.length);
    for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  }
  const block = await unpacked($("arrays").textContent);
  const array = (name) => {
    const [kind, first, length] = page.arrays[name];
    return new KINDS[kind](block, first, length);
  };
  const groups = array("groups");
  const offsets = array("offsets");
  const vocabulary = array("vocabulary");
  const tokens = array("tokens");
  const mask = array("mask");
  const signals = page.signals.map((signal) => ({ ...signal, values: array(signal.path) }));
  const rulers = {};
  for (const [name, { numbers, words }] of Object.entries(page.rulers)) {
    const ruler = { offsets: array(`${name}.offsets`), numbers: {}, words: {} };
    for (const path of numbers) ruler.numbers[path] = array(path);
    for (const [path, list] of Object.entries(words)) ruler.words[path] = { codes: array(path), list: legible(list) };
    ruler.starts = ruler.numbers[`${name}.start`];
    ruler.ends = ruler.numbers[`${name}.end`];
    rulers[name] = ruler;
  }
  const reward = page.rollouts.reward ?? null;
  const rewardRange = (() => {
    const known = (reward ?? []).filter((each) => each !== null);
    return known.length ? [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))] : [0, 1];
  })();

  // Words

  const short = (name) => visible(name.replace(/^token\./, ""));
  const number = (value, digits = 6) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const rounded = Number(value.toPrecision(digits));
    const small = rounded !== 0 && Math.abs(rounded) < 1e-4;
    return (small ? rounded.toExponential() : String(rounded)).replace("-", "−");
  };
  const signed = (value, digits) => (value > 0 ? "+" : "") + number(value, digits);
  const count = (value) => value.toLocaleString("en");
  const share = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
  const plural = (many, word) => `${count(many)} ${word}${many === 1 ? "" : "s"}`;
  // A cut in the middle of a character leaves the half of it out.
  const begun = (text, most) => text.slice(0, most).replace(/[\ud800-\udbff]$/, "");
  const ended = (text, most) => text.slice(-most).replace(/^[\udc00-\udfff]/, "");
  const cutTo = (text, most) => (text.length <= most ? text : `${begun(text, most - 1)}…`);
  const oneLine = (text) => text.replaceAll("\n", "⏎");
  const textBetween = (start, end) => {
    let text = "";
    for (let place = start; place < end; place++) text += texts[tokens[place]];
    return text;
  };

  // State

  const state = { group: 0, signal: Math.max(0, signals.findIndex((each) => each.path === page.signal)), order: [] };
  const current = () => signals[state.signal] ?? null;
  const groupRows = (group) => Array.from({ length: groups[group + 1] - groups[group] }, (_, at) => groups[group] + at);
  const meanOf = (rows) => {
    const known = rows.map((row) => reward?.[row] ?? null).filter((each) => each !== null);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  };
  const spreadOf = (rows) => {
    const known = rows.map((row) => reward?.[row] ?? null).filter((each) => each !== null);
    return known.length ? known.reduce((a, b) => Math.max(a, b)) - known.reduce((a, b) => Math.min(a, b)) : 0;
  };
  function rewardPart(value) {
    const [low, high] = rewardRange;
    return high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0.5;
  }
  function rewardColour(value) {
    if (value === null || value === undefined) return null;
    const at = rewardPart(value);
    const [from, to, part] = at < 0.5 ? ["low", "middle", at * 2] : ["middle", "high", at * 2 - 1];
    return `color-mix(in oklab, var(--${to}) ${(100 * part).toFixed(0)}%, var(--${from}))`;
  }
  const masses = new Map();
  function mass(signal, row) {
    if (!masses.has(signal)) {
      const found = new Float64Array(offsets.length - 1);
      for (let at = 0; at < found.length; at++) {
        for (let place = offsets[at]; place < offsets[at + 1]; place++) {
          const value = signal.values[place];
          if (mask[place] && value === value) found[at] += Math.abs(value);
        }
      }
      masses.set(signal, found);
    }
    return masses.get(signal)[row];
  }
  function spanAt(name, row, position) {
    const ruler = rulers[name];
    if (!ruler) return -1;
    for (let at = ruler.offsets[row]; at < ruler.offsets[row + 1]; at++) {
      if (ruler.starts[at] <= position && position < ruler.ends[at]) return at;
    }
    return -1;
  }

  // Head

  function drawHead() {
    const { statistics, shown, history } = page;
    $("file").textContent = page.file;
    const model = history.map((each) => each.parameters.model).find((each) => each && each !== "none");
    $("facts").append(
      ...[
        [count(statistics.rollouts), statistics.rollouts === 1 ? "rollout" : "rollouts"],
        [count(statistics.groups), statistics.groups === 1 ? "group" : "groups"],
        [count(statistics.tokens), "tokens"],
        model ? [model, ""] : null,
        page.only_ids && tokens.length ? ["tokens by id", "(no tokenizer; name one with --model)"] : null,
      ].filter(Boolean).map(([value, word]) => el("span", {}, el("b", {}, value), word && ` ${word}`)),
    );
    for (const each of history) {
      const which = each.parameters.method ?? each.parameters.with ?? each.parameters.task ?? each.parameters.by;
      const rows = Object.entries(each.parameters).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
      const counts = Object.entries(each.counts).map(([name, many]) => `${count(many)} ${name}`).join(", ");
      $("history").append(
        el("li", {}, el("details", {},
          el("summary", {}, each.stage, which ? [" ", el("b", {}, which)] : null),
          el("div", { class: "card" }, counts ? el("p", { class: "facts" }, counts) : null, el("dl", { class: "pairs" }, rows)))),
      );
    }
    document.addEventListener("click", (event) => {
      for (const open of document.querySelectorAll(".history details[open]")) if (!open.contains(event.target)) open.open = false;
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      hidePanel();
      const open = document.querySelector(".history details[open]");
      if (!open) return;
      if (open.contains(document.activeElement)) open.querySelector("summary").focus();
      open.open = false;
    });
    if (shown.rollouts < statistics.rollouts) {
      $("cut").hidden = false;
      $("cut").textContent =
        `This page holds ${plural(shown.groups, "group")} with ${plural(shown.rollouts, "rollout")} of the file's ` +
        `${count(statistics.groups)} and ${count(statistics.rollouts)}; statistics are of the whole file. ` +
        "Choose others with --limit, --group or --rollout.";
    }
  }

  function drawTheme() {
    const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const kept = (use) => { try { return use(localStorage); } catch { return null; } };
    const draw = () => {
      $("theme").textContent = dark() ? "☀" : "☾";
      const says = dark() ? "Use light colours" : "Use dark colours";
      $("theme").setAttribute("aria-label", says);
      $("theme").title = says;
    };
    const before = kept((storage) => storage.getItem("apportion-theme"));
    if (before) document.documentElement.dataset.theme = before;
    $("theme").addEventListener("click", () => {
      document.documentElement.dataset.theme = dark() ? "light" : "dark";
      kept((storage) => storage.setItem("apportion-theme", document.documentElement.dataset.theme));
      draw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  }

  // Groups

  const promptOf = (group) => {
    const said = page.groups[group].prompt;
    return said.length ? said[said.length - 1][1] : page.groups[group].id;
  };
  // What all prompts begin with tells no group from another; in the list it becomes an ellipsis.
  const told = (() => {
    const prompts = page.groups.map((_, group) => promptOf(group));
    let same = prompts.length > 1 ? prompts[0].length : 0;
    for (const prompt of prompts) {
      let at = 0;
      while (at < same && prompt[at] === prompts[0][at]) at++;
      same = at;
    }
    return prompts[0].lastIndexOf(" ", same - 1) + 1;
  })();
  const nameOf = (group) => {
    const prompt = promptOf(group);
    return cutTo(told > 24 && prompt.length > told ? `… ${prompt.slice(told)}` : prompt, 160);
  };
  function answerOf(reference) {
    try {
      const said = JSON.parse(reference);
      const answer = said?.answer ?? said;
      return typeof answer === "object" ? reference : String(answer);
    } catch { return reference; }
  }
  const searched = [];
  function searchable(group) {
    searched[group] ??= [
      page.groups[group].id,
      ...page.groups[group].prompt.map(([, content]) => content),
      ...groupRows(group).flatMap((row) => [
        page.rollouts.rollout_id[row], ...(page.rollouts.flags[row] ?? []), textBetween(offsets[row], offsets[row + 1]),
      ]),
    ].join("\n").toLowerCase();
    return searched[group];
  }
  const ORDERS = {
    file: ["file order", null],
    spread: ["reward spread", (group) => spreadOf(groupRows(group)), () => reward],
    reward: ["mean reward", (group) => meanOf(groupRows(group)) ?? -Infinity, () => reward],
    credit: ["mass of the signal", (group) => groupRows(group).reduce((sum, row) => sum + mass(current(), row), 0), current],
    tokens: ["tokens", (group) => offsets[groups[group + 1]] - offsets[groups[group]]],
  };
  function orderGroups() {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = Array.from({ length: groups.length - 1 }, (_, group) => group);
    const found = words.length ? all.filter((group) => words.every((word) => searchable(group).includes(word))) : all;
    const key = ORDERS[$("sort").value][1];
    if (key) {
      const keys = new Map(found.map((group) => [group, key(group)]));
      found.sort((a, b) => keys.get(b) - keys.get(a) || a - b);
    }
    state.order = found;
    state.listed = GROUPS_LISTED;
    $("found").textContent = words.length ? `${count(found.length)} of ${plural(all.length, "group")}` : plural(all.length, "group");
    drawGroups();
  }
  function drawGroups() {
    $("groups").replaceChildren(
      ...state.order.slice(0, state.listed).map((group) => {
        const rows = groupRows(group);
        const known = rows.map((row) => reward?.[row] ?? null).sort((a, b) => (b ?? -Infinity) - (a ?? -Infinity));
        const step = Math.max(1, Math.ceil(known.length / 32));
        const dots = reward ? known.filter((_, at) => at % step === 0).map((each) => el("i", { "--reward": rewardColour(each) })) : [];
        const mean = meanOf(rows);
        return el("li", {}, el("button", {
          class: "group", type: "button", "data-group": group, "aria-current": group === state.group ? "true" : null,
          title: page.groups[group].id, onclick: () => showGroup(group),
        },
        el("span", { class: "name" }, nameOf(group)),
        el("span", { class: "dots", "aria-hidden": "true" }, dots),
        el("span", { class: "numbers" }, mean === null ? plural(rows.length, "rollout") : `${rows.length} × mean ${number(mean, 2)}`)));
      }),
    );
    $("more").hidden = state.order.length <= state.listed;
    drawSteps();
  }
  function showGroup(group) {
    state.group = group;
    if (state.order.indexOf(group) >= state.listed) {
      state.listed = state.order.indexOf(group) + GROUPS_LISTED;
      drawGroups();
    }
    for (const button of document.querySelectorAll(".group")) {
      if (Number(button.dataset.group) === group) {
        button.setAttribute("aria-current", "true");
        button.scrollIntoView({ block: "nearest" });
      } else button.removeAttribute("aria-current");
    }
    try { history.replaceState(null, "", `#group-${group}`); } catch { /* a sandboxed frame has no address */ }
    hidePanel();
    drawGroup();
    chooseView("rollouts");
    scrollTo(0, 0);
  }

  // Tokens

  const legendScale = (signal) => signal.scale || 1;
  function paint(span, place) {
    const signal = current();
    span.classList.remove("plus", "minus", "amount");
    const value = signal && mask[place] ? signal.values[place] : NaN;
    if (!(Math.abs(value) > 0)) return;
    const strength = Math.min(1, Math.abs(value) / legendScale(signal));
    span.style.setProperty("--a", (0.1 + 0.9 * strength).toFixed(3));
    span.classList.add(!signal.diverging ? "amount" : value > 0 ? "plus" : "minus");
  }
  function drawTokens(body, row, most = TOKENS_DRAWN) {
    const [start, end] = [offsets[row], offsets[row + 1]];
    const begins = new Set();
    if (rulers.step) for (let at = rulers.step.offsets[row]; at < rulers.step.offsets[row + 1]; at++) begins.add(rulers.step.starts[at]);
    const drawn = document.createDocumentFragment();
    const last = Math.min(end, start + most);
    for (let place = start; place < last; place++) {
      const changes = place > start && mask[place] !== mask[place - 1];
      if (changes) drawn.append(el("span", { class: "turn", role: "separator" }, mask[place] ? "policy" : "environment"));
      const span = document.createElement("span");
      span.className = mask[place] ? "token" : "token environment";
      if (begins.has(place - start) && place > start && !changes) span.classList.add("step");
      span.dataset.place = place;
      span.tabIndex = place === start ? 0 : -1;
      const text = texts[tokens[place]];
      if (text.includes("\n")) {
        text.split("\n").forEach((line, at) => {
          if (at) span.append(el("span", { class: "glyph", "aria-hidden": "true" }, "⏎"), "\n");
          span.append(line);
        });
      } else if (text === "") span.append(el("span", { class: "glyph" }, "·"));
      else span.textContent = text;
      paint(span, place);
      drawn.append(span);
    }
    body.replaceChildren(drawn);
    if (last < end) {
      body.append(el("button", { class: "quiet", type: "button", onclick: () => { drawTokens(body, row, Infinity); moveTo(tokenAt(body, last)); } }, `Show all ${count(end - start)} tokens`));
    }
    if (start === end) body.append(el("span", { class: "glyph" }, "(empty)"));
  }
  const tokenAt = (body, place) => body.querySelector(`.token[data-place="${place}"]`);
  function moveTo(span) {
    span.focus(); // Tab comes back to it: see focusin
    span.scrollIntoView({ block: "nearest" });
  }
  // Only what is near the window holds tokens; the rest keeps its height.
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const body = target.querySelector(".body");
      if (isIntersecting && !body.firstChild) {
        drawTokens(body, Number(target.dataset.row));
        body.style.minHeight = "";
      } else if (!isIntersecting && body.firstChild && !body.contains(document.activeElement)) {
        body.style.minHeight = `${body.offsetHeight}px`;
        body.replaceChildren();
      }
    }
  }, { rootMargin: "1200px 0px" });

  function strip(row) {
    const signal = current();
    const [start, end] = [offsets[row], offsets[row + 1]];
    const many = Math.min(STRIP, end - start);
    const drawn = svg("svg", { class: "strip", viewBox: `0 0 ${many || 1} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (let at = 0; signal && at < many; at++) {
      const [from, to] = [start + Math.floor((at * (end - start)) / many), start + Math.floor(((at + 1) * (end - start)) / many)];
      let sum = 0;
      for (let place = from; place < to; place++) if (mask[place] && signal.values[place] === signal.values[place]) sum += signal.values[place];
      const value = sum / (to - from);
      if (!value) continue;
      const colour = !signal.diverging ? "amount" : value > 0 ? "plus" : "minus";
      drawn.append(svg("rect", { x: at, y: 0, width: 1.02, height: 1, fill: `var(--${colour})`, "fill-opacity": (0.12 + 0.8 * Math.min(1, Math.abs(value) / legendScale(signal))).toFixed(2) }));
    }
    return drawn;
  }
  function card(row) {
    const facts = page.rollouts;
    const length = offsets[row + 1] - offsets[row];
    const signal = current();
    const parts = Object.entries(facts).filter(([name]) => name.startsWith("rewards.") || name === "weight")
      .filter(([, values]) => values[row] !== null).map(([name, values]) => el("span", {}, `${name.replace("rewards.", "")} `, el("b", {}, number(values[row], 3))));
    const forked = facts.parent_id[row] ? el("span", {}, `left ${facts.parent_id[row]} at ${facts.fork[row]}`) : null;
    const made = el("article", { class: "rollout", "data-row": row, "--reward": rewardColour(reward?.[row]), "aria-label": `rollout ${facts.rollout_id[row]}` },
      el("header", {},
        el("h4", {}, facts.rollout_id[row]),
        reward ? el("span", {}, "reward ", el("b", {}, number(reward[row], 4))) : null,
        parts, el("span", {}, plural(length, "token")), forked,
        (facts.flags[row] ?? []).map((flag) => el("span", { class: "chip" }, flag)),
        facts.finish_reason[row] && facts.finish_reason[row] !== "stop" ? el("span", { class: "chip" }, `ended by ${facts.finish_reason[row]}`) : null,
        signal ? strip(row) : null),
      el("div", { class: "body", role: "group", "aria-label": `tokens of ${facts.rollout_id[row]}; arrow keys move between them` }));
    made.querySelector(".body").style.minHeight = `${Math.ceil((length * 4.2) / 110) * 24}px`;
    return made;
  }
  const ROLLOUT_ORDERS = {
    file: ["file order", null],
    reward: ["reward", (row) => reward[row] ?? -Infinity, () => reward],
    credit: ["mass of the signal", (row) => mass(current(), row), current],
    tokens: ["length", (row) => offsets[row + 1] - offsets[row]],
  };
  let rolloutOrder = "file";
  function drawRollouts() {
    const rows = groupRows(state.group);
    const key = ROLLOUT_ORDERS[rolloutOrder][1];
    if (key) rows.sort((a, b) => key(b) - key(a) || a - b);
    watcher.disconnect();
    const cards = rows.map(card);
    $("cards").replaceChildren(...cards);
    for (const each of cards) watcher.observe(each);
  }
  function recolour() {
    for (const span of document.querySelectorAll(".token")) paint(span, Number(span.dataset.place));
    for (const each of document.querySelectorAll(".rollout")) {
      each.querySelector(".strip")?.replaceWith(strip(Number(each.dataset.row)));
    }
  }
  function drawLegend() {
    const signal = current();
    if (!signal) {
      $("legend").replaceChildren("no token signal in this file");
      return;
    }
    const scale = legendScale(signal);
    const falling = !signal.diverging && page.statistics.signals.find((each) => each.column === signal.path).mean < 0;
    const ends = signal.diverging ? [`−${number(scale, 3)}`, "0", `+${number(scale, 3)}`] : ["0", `${falling ? "−" : ""}${number(scale, 3)}${signal.unit ? ` ${signal.unit}` : ""}`];
    $("legend").replaceChildren(
      el("div", { class: `ramp ${signal.diverging ? "signed" : "amount"}`, role: "img", "aria-label": `colours from ${ends[0]} to ${ends[ends.length - 1]}` }),
      el("div", { class: "ends" }, ends.map((each) => el("span", {}, each))));
    $("legend").title = `${visible(signal.path)}${signal.meaning ? `: ${signal.meaning}` : ""}. Full colour at the 95 % quantile of its size.`;
  }

  // The panel of one token

  let described = null;
  function panelOf(place, row) {
    const position = place - offsets[row];
    const rows = [];
    const pair = (name, value, chosen) => rows.push(el("dt", { class: chosen ? "chosen" : null }, name), el("dd", { class: chosen ? "chosen" : null, "data-name": name }, value));
    const rule = () => rows.push(el("div", { class: "rule" }));
    pair("position from 0", `${count(position)} of ${count(offsets[row + 1] - offsets[row])}`);
    pair("token id", String(vocabulary[tokens[place]]));
    if (!mask[place]) pair("written by", "the environment");
    if (signals.length) rule();
    signals.forEach((signal, at) => pair(short(signal.path), signal.credit ? signed(signal.values[place]) : number(signal.values[place]), at === state.signal));
    for (const name of ["step", "node"]) {
      const at = spanAt(name, row, position);
      if (at < 0) continue;
      rule();
      const ruler = rulers[name];
      if (name === "step") pair("step", `${at - ruler.offsets[row] + 1} of ${ruler.offsets[row + 1] - ruler.offsets[row]}`);
      for (const [path, { codes, list }] of Object.entries(ruler.words)) if (codes[at] >= 0) pair(visible(path), list[codes[at]]);
      for (const [path, values] of Object.entries(ruler.numbers)) if (!/\.(start|end)$/.test(path)) pair(visible(path), number(values[at]));
      const node = name === "node" && !ruler.numbers["node.value"] ? tree?.nodes.get(ruler.numbers["node.id"]?.[at]) : null;
      if (node && node.value !== null) pair("mean reward", number(node.value));
    }
    const text = texts[tokens[place]];
    return [el("span", { class: "text" }, `“${text.replaceAll("\n", "⏎").replaceAll(" ", "␣")}”`), el("dl", { class: "pairs" }, rows)];
  }
  function showPanel(span) {
    const place = Number(span.dataset.place);
    const row = Number(span.closest(".rollout").dataset.row);
    const panel = $("panel");
    if (described !== span) {
      panel.replaceChildren(...panelOf(place, row));
      described?.removeAttribute("aria-describedby");
      span.setAttribute("aria-describedby", "panel");
      described = span;
      const at = spanAt("node", row, place - offsets[row]);
      markNode(at < 0 ? null : rulers.node.numbers["node.id"]?.[at]);
    }
    panel.hidden = false;
    const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const [wide, high] = [panel.offsetWidth, panel.offsetHeight];
    panel.style.left = `${Math.max(8, Math.min(box.left, innerWidth - wide - 12))}px`;
    const below = box.bottom + 8 + high < innerHeight;
    panel.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - high - 8)}px`;
  }
  function hidePanel() {
    $("panel").hidden = true;
    described?.removeAttribute("aria-describedby");
    described = null;
    markNode(null);
  }
  const withOthers = (event) => event.altKey || event.ctrlKey || event.metaKey; // such keys are the browser's own
  function listenToTokens() {
    const area = $("rollouts");
    area.addEventListener("mouseover", (event) => {
      const span = event.target.closest(".token");
      if (span) showPanel(span);
    });
    area.addEventListener("mouseout", (event) => {
      if (!event.target.closest(".token") || event.relatedTarget?.closest?.(".token")) return;
      if (document.activeElement?.classList.contains("token") && document.activeElement.matches(":focus-visible")) showPanel(document.activeElement);
      else hidePanel();
    });
    area.addEventListener("focusin", (event) => {
      const span = event.target;
      if (!span.classList.contains("token")) return;
      for (const other of span.parentElement.querySelectorAll('.token[tabindex="0"]')) other.tabIndex = -1;
      span.tabIndex = 0;
      showPanel(span);
    });
    area.addEventListener("focusout", (event) => { if (event.target.classList.contains("token")) hidePanel(); });
    area.addEventListener("keydown", (event) => {
      const span = event.target;
      if (!span.classList?.contains("token") || withOthers(event)) return;
      const all = [...span.parentElement.querySelectorAll(":scope > .token")];
      const at = all.indexOf(span);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1, ArrowDown: beside(all, at, 1), ArrowUp: beside(all, at, -1) }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      moveTo(all[Math.max(0, Math.min(all.length - 1, to))]);
    });
    addEventListener("scroll", () => { if (described && !$("panel").hidden) described.isConnected ? showPanel(described) : hidePanel(); }, { passive: true });
  }
  function beside(all, at, way) {
    const { top, left } = all[at].getBoundingClientRect();
    let best = at;
    let line = null;
    for (let other = at + way; other >= 0 && other < all.length; other += way) {
      const box = all[other].getBoundingClientRect();
      if (Math.abs(box.top - top) < 4) continue;
      line ??= box.top;
      if (Math.abs(box.top - line) >= 4) break;
      if (best === at || Math.abs(box.left - left) < Math.abs(all[best].getBoundingClientRect().left - left)) best = other;
    }
    return best;
  }

  // The tree of a group

  function treeOf(group) {
    const ruler = rulers.node;
    const ids = ruler?.numbers["node.id"];
    if (!ids) return null;
    const root = { id: ROOT, parent: null, rows: [], children: [], depth: 0, open: true };
    const nodes = new Map();
    for (const row of groupRows(group)) {
      if (ruler.offsets[row] === ruler.offsets[row + 1]) continue;
      root.rows.push(row);
      let before = root;
      for (let at = ruler.offsets[row]; at < ruler.offsets[row + 1]; at++) {
        let node = nodes.get(ids[at]);
        if (!node) {
          node = { id: ids[at], parent: before, rows: [], children: [], depth: before.depth + 1, open: false, start: ruler.starts[at], end: ruler.ends[at] };
          node.visits = ruler.numbers["node.visits"]?.[at];
          node.value = ruler.numbers["node.value"]?.[at];
          nodes.set(node.id, node);
          before.children.push(node);
        }
        node.rows.push(row);
        before = node;
      }
    }
    if (!nodes.size) return null;
    for (const node of [root, ...nodes.values()]) {
      node.visits = Number.isFinite(node.visits) ? node.visits : node.rows.length;
      node.value = Number.isFinite(node.value) ? node.value : meanOf(node.rows);
      node.children.sort((a, b) => b.rows.length - a.rows.length || a.id - b.id);
    }
    let seen = 1 + root.children.length; // opened breadth first, as long as it stays small
    for (let queue = [...root.children]; queue.length; ) {
      const node = queue.shift();
      if (!node.children.length) continue;
      if (seen + node.children.length > NODES_OPEN) break;
      seen += node.children.length;
      node.open = true;
      queue.push(...node.children);
    }
    return { root, nodes };
  }
  let tree = null;
  let active = ROOT;
  function visibleNodes() {
    const found = [];
    const walk = [tree.root];
    while (walk.length) {
      const node = walk.pop();
      found.push(node);
      if (node.open) walk.push(...[...node.children].reverse());
    }
    return found;
  }
  function labelOf(node) {
    if (node.id === ROOT) return "prompt";
    const text = oneLine(textBetween(offsets[node.rows[0]] + node.start, offsets[node.rows[0]] + node.end)).trim() || "·";
    const letters = [...text];
    return letters.length <= 64 ? text : `${letters.slice(0, 46).join("")} … ${letters.slice(-14).join("")}`;
  }
  function drawTree(focus = false) {
    const HIGH = 27;
    const WIDE = 24;
    const shown = visibleNodes();
    const total = tree.root.rows.length;
    const place = new Map(shown.map((node, at) => [node, { x: 16 + node.depth * WIDE, y: 36 + at * HIGH }]));
    const radius = (node) => 3.5 + 6.5 * Math.sqrt(Math.min(1, node.rows.length / total));
    const start = (node) => place.get(node).x + 17 + (node.children.length ? 13 : 0);
    const labels = new Map(shown.map((node) => [node, labelOf(node)]));
    const column = 30 + shown.reduce((widest, node) => Math.max(widest, start(node) + labels.get(node).length * 7.6), 180);
    const wide = column + (tree.root.value === null ? 70 : 230);
    const edges = [];
    const marks = shown.map((node) => {
      const { x, y } = place.get(node);
      if (node.parent) {
        const from = place.get(node.parent);
        edges.push(svg("path", { class: "edge", d: `M${from.x} ${from.y}V${y - 9}Q${from.x} ${y} ${from.x + 9} ${y}H${x}`, "stroke-width": (1 + 3 * node.rows.length / total).toFixed(2) }));
      }
      const label = labels.get(node);
      const numbers = `${plural(node.rows.length, "rollout")}${node.value === null ? "" : ` · mean reward ${number(node.value, 3)}`}`;
      const value = node.value === null ? [] : [
        svg("rect", { class: "track", x: column + 66, y: y - 3, width: 90, height: 6, rx: 3 }),
        svg("rect", { class: "part", x: column + 66, y: y - 3, width: (90 * rewardPart(node.value)).toFixed(1), height: 6, rx: 3 }),
        svg("text", { class: "dim", x: column + 166, y }, number(node.value, 2)),
      ];
      return svg("g", {
        class: `node${node.children.length && !node.open ? " closed" : ""}`, role: "treeitem", tabindex: node.id === active ? 0 : -1, "data-node": node.id,
        "aria-level": node.depth + 1, "aria-expanded": node.children.length ? String(node.open) : null, "aria-label": `${label}, ${numbers}`, "--reward": rewardColour(node.value),
      },
      svg("title", {}, `${label}\n${numbers}${node.id === ROOT ? "" : `\nnode ${node.id}, tokens ${node.start} to ${node.end}`}`),
      svg("rect", { class: "row", x: x - 13, y: y - 12, width: wide - x + 7, height: 24, rx: 6 }),
      svg("circle", { cx: x, cy: y, r: radius(node).toFixed(1) }),
      node.children.length ? svg("text", { class: "sign", x: x + 14, y }, node.open ? "▾" : "▸") : null,
      svg("text", { x: start(node), y }, label),
      svg("text", { class: "dim", x: column + 40, y, "text-anchor": "end" }, `×${node.visits}`), value);
    });
    const drawn = svg("svg", { class: "tree", role: "tree", "aria-label": "prefix tree of the group", width: Math.ceil(wide), height: shown.length * HIGH + 26 },
      svg("text", { class: "dim", x: column + 40, y: 12, "text-anchor": "end" }, "rollouts"),
      tree.root.value === null ? null : svg("text", { class: "dim", x: column + 66, y: 12 }, "mean reward"), edges, marks);
    $("forest").replaceChildren(drawn);
    if (focus) drawn.querySelector(`[data-node="${active}"]`)?.focus();
  }
  const nodeOf = (mark) => (Number(mark.dataset.node) === ROOT ? tree.root : tree.nodes.get(Number(mark.dataset.node)));
  function highlight(node) {
    const through = new Set(node && node.id !== ROOT ? node.rows : []);
    $("cards").classList.toggle("choosing", through.size > 0);
    for (const span of document.querySelectorAll(".spanned")) span.classList.remove("spanned");
    for (const each of document.querySelectorAll(".rollout")) {
      const row = Number(each.dataset.row);
      each.classList.toggle("through", through.has(row));
      if (!through.has(row)) continue;
      for (const span of each.querySelectorAll(".token")) {
        const position = Number(span.dataset.place) - offsets[row];
        span.classList.toggle("spanned", node.start <= position && position < node.end);
      }
    }
  }
  function markNode(id) {
    for (const mark of document.querySelectorAll(".tree .current")) mark.classList.remove("current");
    if (id === null || id === undefined || !tree) return;
    let node = tree.nodes.get(id);
    while (node) { // the nearest one that is drawn
      const mark = document.querySelector(`.tree [data-node="${node.id}"]`);
      if (mark) { mark.classList.add("current"); return; }
      node = node.parent;
    }
  }
  function toggle(node, open = !node.open) {
    if (!node.children.length || node.open === open) return;
    node.open = open;
    active = node.id;
    drawTree(true);
  }
  function openAll(open) {
    for (const node of tree.nodes.values()) node.open = open && node.children.length > 0;
    tree.root.open = true;
    active = ROOT;
    drawTree();
  }
  function listenToTree(forest) {
    const markAt = (event) => event.target.closest?.(".node");
    forest.addEventListener("click", (event) => { const mark = markAt(event); if (mark) toggle(nodeOf(mark)); });
    forest.addEventListener("mouseover", (event) => { const mark = markAt(event); if (mark) highlight(nodeOf(mark)); });
    forest.addEventListener("mouseleave", () => highlight(null));
    forest.addEventListener("focusin", (event) => {
      const mark = markAt(event);
      if (!mark) return;
      active = Number(mark.dataset.node);
      for (const each of forest.querySelectorAll(".node")) each.setAttribute("tabindex", each === mark ? 0 : -1);
      highlight(nodeOf(mark));
    });
    forest.addEventListener("focusout", () => highlight(null));
    forest.addEventListener("keydown", (event) => {
      const mark = markAt(event);
      if (!mark || withOthers(event)) return;
      const node = nodeOf(mark);
      const shown = visibleNodes();
      const at = shown.indexOf(node);
      const go = (to) => { if (to) forest.querySelector(`[data-node="${to.id}"]`).focus(); };
      const acts = {
        Enter: () => toggle(node), " ": () => toggle(node),
        ArrowRight: () => (node.children.length && !node.open ? toggle(node, true) : go(node.children[0])),
        ArrowLeft: () => (node.open && node.children.length ? toggle(node, false) : go(node.parent)),
        ArrowDown: () => go(shown[at + 1]), ArrowUp: () => go(shown[at - 1]), Home: () => go(shown[0]), End: () => go(shown[shown.length - 1]),
      };
      if (!acts[event.key]) return;
      event.preventDefault();
      acts[event.key]();
    });
  }

  // What decided the reward of a group

  const BEFORE = 24; // characters
  const CAME = 48;
  function firstCredit(node) { // the mean over the rollouts through it
    const signal = current();
    const known = node.rows.map((row) => signal.values[offsets[row] + node.start]).filter((value) => value === value);
    return known.length && node.start < node.end ? known.reduce((a, b) => a + b, 0) / known.length : null;
  }
  function textBefore(node) {
    const text = oneLine(textBetween(offsets[node.rows[0]], offsets[node.rows[0]] + node.start));
    return text === "" ? "(the prompt)" : text.length <= BEFORE ? text : `…${ended(text, BEFORE - 1)}`;
  }
  function drawForks() {
    if (!$("forks")) return;
    const signal = current();
    const { first, more } = page.groups[state.group].forks;
    const branch = (id, at, decided) => {
      const node = tree.nodes.get(id);
      const mean = meanOf(node.rows);
      const came = oneLine(textBetween(offsets[node.rows[0]] + node.start, offsets[node.rows[0]] + node.end)) || "·";
      return el("tr", { "data-node": id, tabindex: 0, class: at ? null : "first" },
        el("td", {}, at ? null : share(decided, 0)),
        el("td", { class: "words dim" }, at ? null : textBefore(node)),
        el("td", { class: "words" }, cutTo(came, CAME)),
        el("td", {}, node.rows.length),
        el("td", {}, el("i", { class: "dot", "--reward": rewardColour(mean) }), number(mean, 3)),
        signal ? el("td", {}, signal.credit ? signed(firstCredit(node), 3) : number(firstCredit(node), 3)) : null);
    };
    const headings = [["decided", ""], ["after", "words"], ["came", "words"], ["rollouts", ""], ["mean reward", ""]];
    if (signal) headings.push([short(signal.path), ""]);
    $("forks").replaceChildren(
      el("table", {},
        el("thead", {}, el("tr", {}, headings.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
        first.map(({ decided, nodes }) => el("tbody", {}, nodes.map((id, at) => branch(id, at, decided))))),
      more ? el("p", { class: "hint" }, `and ${plural(more, "fork")} that decided less`) : "");
  }
  function listenToForks(forks) {
    const over = (event) => { const row = event.target.closest?.("[data-node]"); highlight(row ? nodeOf(row) : null); };
    for (const name of ["mouseover", "focusin"]) forks.addEventListener(name, over);
    for (const name of ["mouseleave", "focusout"]) forks.addEventListener(name, () => highlight(null));
  }

  // One group

  let treeOpen = true;
  let forksOpen = true;
  function drawGroup() {
    const group = state.group;
    const rows = groupRows(group);
    const facts = page.groups[group];
    const mean = meanOf(rows);
    tree = treeOf(group);
    active = ROOT;
    const forest = el("div", { class: "forest", id: "forest" });
    listenToTree(forest);
    const forks = el("div", { class: "forks", id: "forks" });
    listenToForks(forks);
    const choose = el("select", { id: "order", onchange: (event) => { rolloutOrder = event.target.value; drawRollouts(); } },
      Object.entries(ROLLOUT_ORDERS).filter(([, [, , when]]) => !when || when()).map(([name, [label]]) => el("option", { value: name, selected: name === rolloutOrder }, label)));
    const summary = [
      el("span", {}, el("b", {}, count(rows.length)), ` ${rows.length === 1 ? "rollout" : "rollouts"}`),
      mean === null ? null : el("span", {}, "mean reward ", el("b", {}, number(mean, 3))),
      mean === null || rows.length < 2 ? null : el("span", {}, spreadOf(rows) ? `spread ${number(spreadOf(rows), 3)}` : "dead: all rewards equal"),
      facts.task ? el("span", {}, facts.task) : null,
      facts.reference && facts.reference !== "null" ? el("span", { title: facts.reference }, "reference ", el("b", {}, cutTo(visible(answerOf(facts.reference)), 48))) : null,
    ];
    $("rollouts").replaceChildren(...[
      el("div", { class: "title" }, el("div", {}, el("h2", {}, facts.id), el("p", { class: "facts" }, summary)), el("div", { class: "steps", id: "steps" })),
      facts.prompt.length ? el("div", { class: "prompt", tabindex: 0, role: "region", "aria-label": "prompt" },
        facts.prompt.map(([role, content]) => el("div", { class: "message" }, el("span", {}, role), el("span", {}, content)))) : null,
      tree ? el("details", { class: "fold", open: treeOpen, ontoggle: (event) => { treeOpen = event.target.open; } },
        el("summary", {}, "Prefix tree", el("small", {}, `${plural(tree.nodes.size, "node")}; width and size by rollouts, colour by mean reward`)),
        el("div", { class: "tree-tools" },
          el("button", { class: "quiet", type: "button", id: "open-all", onclick: () => openAll(true) }, "Expand all"),
          el("button", { class: "quiet", type: "button", id: "close-all", onclick: () => openAll(false) }, "Collapse all")),
        forest) : el("p", { class: "hint" }, "No tree in this file; `apportion tree-build` adds one."),
      facts.forks.first.length ? el("details", { class: "fold", open: forksOpen, ontoggle: (event) => { forksOpen = event.target.open; } },
        el("summary", {}, "What decided the reward", el("small", {}, "forks by their share of the group's reward variance, the best branch first")),
        forks) : null,
      el("div", { class: "list" }, el("h3", {}, "Rollouts"), rows.length > 1 ? el("label", { class: "field inline" }, el("span", {}, "Sort"), choose) : null),
      el("div", { id: "cards" }),
    ].filter(Boolean));
    drawSteps();
    if (tree) drawTree();
    drawForks();
    drawRollouts();
  }
  function drawSteps() { // to the groups before and after this one in the list as it is
    const at = state.order.indexOf(state.group);
    const step = (by, word, sign) => {
      const to = at < 0 ? undefined : state.order[at + by];
      const go = () => {
        showGroup(to);
        ($("steps").querySelector(`[data-by="${by}"]:enabled`) ?? $("steps").querySelector(":enabled"))?.focus();
      };
      return el("button", { class: "quiet", type: "button", "data-by": by, "aria-label": `${word} group`, title: `${word} group`, disabled: to === undefined, onclick: go }, sign);
    };
    $("steps")?.replaceChildren(step(-1, "Previous", "←"), step(1, "Next", "→"));
  }

  // Statistics

  function chart(title, note, bars, ticks, { id } = {}) {
    const [W, H, LEFT, BOTTOM, TOP] = [440, 190, 38, 22, 8];
    const most = bars.reduce((a, bar) => Math.max(a, bar.height), 0) || 1;
    const x = (at) => LEFT + (at / bars.length) * (W - LEFT - 4);
    const y = (value) => H - BOTTOM - (value / most) * (H - BOTTOM - TOP);
    const gap = bars.length > 30 ? 0.6 : bars.length > 12 ? 1.5 : 4;
    const thick = Math.min(44, Math.max(0.5, x(1) - x(0) - gap));
    const shares = bars.some((bar) => bar.share);
    const drawn = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: ${bars.map((bar) => bar.says).slice(0, 40).join("; ")}` },
      [0, 0.5, 1].map((part) => [
        svg("line", { x1: LEFT, x2: W - 4, y1: y(part * most), y2: y(part * most) }),
        svg("text", { x: LEFT - 7, y: y(part * most) + 4, "text-anchor": "end" }, shares ? `${Number((100 * part * most).toPrecision(2))}%` : compact(part * most)),
      ]),
      bars.map((bar, at) => svg("rect", { class: bar.kind, x: x(at + 0.5) - thick / 2, width: thick, y: y(bar.height), height: Math.max(bar.height > 0 ? 1 : 0, y(0) - y(bar.height)), rx: Math.min(2, 20 / bars.length) }, svg("title", {}, bar.says))),
      ticks.map(([at, text, anchor]) => svg("text", { x: x(at), y: H - 6, "text-anchor": anchor ?? "middle" }, text)));
    return el("figure", { class: "chart", id }, el("figcaption", {}, title, el("small", {}, note)), drawn);
  }
  const compact = (value) => (value >= 1000 ? `${number(value / 1000, 2)}k` : number(value, 2));
  function histogramChart(title, note, { edges, counts }, kindOf, id) {
    const bars = counts.map((many, at) => ({
      height: many, kind: kindOf(edges[at], edges[at + 1]), says: `${number(edges[at], 3)} to ${number(edges[at + 1], 3)}: ${count(many)}`,
    }));
    const [low, high] = [edges[0], edges[edges.length - 1]];
    const ticks = low === high ? [[0.5, number(low, 3)]] : [[0, number(low, 3), "start"], [counts.length, number(high, 3), "end"]];
    const zero = (-low / (high - low)) * counts.length;
    if (zero > 0.15 * counts.length && zero < 0.85 * counts.length) ticks.push([zero, "0"]);
    return chart(title, note, bars, ticks, { id });
  }
  function drawStatistics() {
    const { statistics, quantiles } = page;
    const signal = current();
    const found = statistics.signals.find((each) => each.column === signal?.path);
    const tile = (value, word) => el("div", { class: "tile" }, el("b", {}, value), el("span", {}, word));
    const tiles = [
      tile(count(statistics.rollouts), "rollouts"), tile(count(statistics.groups), "groups"), tile(count(statistics.tokens), "tokens"),
      statistics.mean_reward === null ? null : tile(number(statistics.mean_reward, 3), "mean reward"),
      statistics.dead_groups === null ? null : tile(share(statistics.dead_groups), "dead groups"),
      found ? tile(share(found.zero), `tokens with zero ${signal.credit ? "credit" : short(signal.path)}`) : null,
      ...Object.entries(statistics.flags).map(([flag, many]) => tile(count(many), `flagged ${flag}`)),
    ];
    const kind = (low, high) => (!signal.diverging ? "amount" : low <= 0 && high >= 0 ? "zero" : low > 0 ? "plus" : "minus");
    const charts = [];
    if (found?.histogram) {
      const what = signal.credit ? "credit" : short(signal.path);
      charts.push(histogramChart(`Values of ${short(signal.path)}`, `${count(found.tokens)} tokens the policy wrote`, found.histogram, kind, "values"));
      const bars = found.by_position.map((part, at) => ({ height: part, share: true, kind: signal.diverging ? "" : "amount", says: `${at * 5} to ${at * 5 + 5} % of the response: ${share(part)}` }));
      charts.push(chart(`Where in the response the ${what} lies`, "share of |value| by position", bars, [[0, "start", "start"], [10, "middle"], [20, "end", "end"]], { id: "by-position" }));
      if (found.by_step) {
        const last = found.by_step.length;
        const steps = found.by_step.map((part, at) => ({ height: part, share: true, kind: signal.diverging ? "" : "amount", says: `step ${at + 1}${at === 19 ? " and later" : ""}: ${share(part)}` }));
        charts.push(chart(`In which step the ${what} lies`, "share of |value| by step", steps, found.by_step.map((_, at) => [at + 0.5, at === 19 ? "20+" : String(at + 1)]).filter(([at]) => last < 13 || Math.floor(at) % 3 === 0 || at > last - 1), { id: "by-step" }));
      }
    }
    if (statistics.rewards) charts.push(histogramChart("Rewards", plural(statistics.rollouts, "rollout"), statistics.rewards, () => "", "rewards"));
    const sizes = Object.entries(statistics.group_sizes).map(([size, many]) => [Number(size), many]).sort((a, b) => a[0] - b[0]);
    charts.push(chart("Group sizes", "groups by their rollouts", sizes.map(([size, many]) => ({ height: many, kind: "", says: `${plural(many, "group")} of ${size}` })),
      sizes.map(([size], at) => [at + 0.5, String(size)]).filter((_, at) => at % Math.ceil(sizes.length / 12) === 0), { id: "sizes" }));
    const lines = [
      ["tokens", (each) => count(each.tokens)], ["mean", (each) => signed(each.mean, 4)], ["std", (each) => number(each.std, 4)],
      ...quantiles.map((part, at) => [`${100 * part} % quantile`, (each) => signed(each.quantiles[at], 4)]),
      ...[2, 3, 4, 5].map((at) => [`${100 * quantiles[at]} % quantile of |value|`, (each) => number(each.magnitudes[at], 4)]),
      ["above 0", (each) => share(each.positive)], ["below 0", (each) => share(each.negative)], ["exactly 0", (each) => share(each.zero)],
      ["sign balance", (each) => (each.sign_balance === null ? "–" : signed(each.sign_balance, 2))],
      ["correlation of mass with length", (each) => (each.correlation_length === null ? "–" : signed(each.correlation_length, 2))],
    ];
    const chosen = (each) => (each.column === signal?.path ? "chosen-column" : null);
    const table = statistics.signals.length ? el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "numbers of every signal" }, el("table", {},
      el("thead", {}, el("tr", {}, el("td", {}), statistics.signals.map((each) => el("th", { scope: "col", class: chosen(each) }, short(each.column))))),
      el("tbody", {}, lines.map(([name, show]) => el("tr", {}, el("th", { scope: "row" }, name), statistics.signals.map((each) => el("td", { class: chosen(each) }, show(each)))))))) : null;
    $("statistics").replaceChildren(...[el("div", { class: "tiles" }, tiles), el("div", { class: "charts" }, charts), table].filter(Boolean));
  }

  // Views

  const VIEWS = ["rollouts", "statistics"];
  function chooseView(name, focus = false) {
    for (const each of VIEWS) {
      const tab = $(`tab-${each}`);
      tab.setAttribute("aria-selected", String(each === name));
      tab.tabIndex = each === name ? 0 : -1;
      $(each).hidden = each !== name;
      if (focus && each === name) tab.focus();
    }
    hidePanel();
    if (name === "statistics") drawStatistics();
  }
  for (const name of VIEWS) {
    $(`tab-${name}`).addEventListener("click", () => chooseView(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") chooseView(VIEWS[1 - VIEWS.indexOf(name)], true);
    });
  }
  $("signal").append(...signals.map((signal, at) => el("option", { value: at, selected: at === state.signal }, short(signal.path))));
  $("signal").disabled = signals.length === 0;
  $("signal").addEventListener("change", () => {
    state.signal = Number($("signal").value);
    drawLegend();
    recolour();
    drawForks();
    if (rolloutOrder === "credit") drawRollouts();
    if ($("sort").value === "credit") orderGroups();
    if (!$("statistics").hidden) drawStatistics();
  });
  $("sort").append(...Object.entries(ORDERS).filter(([, [, , when]]) => !when || when()).map(([name, [label]]) => el("option", { value: name }, label)));
  $("sort").addEventListener("change", orderGroups);
  $("filter").addEventListener("input", orderGroups);
  $("more").addEventListener("click", () => {
    const before = state.listed;
    state.listed += GROUPS_LISTED;
    drawGroups();
    document.querySelectorAll(".group")[before]?.focus();
  });

  drawTheme();
  drawHead();
  drawLegend();
  const asked = /^#group-(\d+)$/.exec(location.hash);
  if (asked && Number(asked[1]) < groups.length - 1) state.group = Number(asked[1]);
  orderGroups();
  document.querySelector(".group[aria-current]")?.scrollIntoView({ block: "nearest" });
  scrollTo(0, 0); // bringing the group into view may have moved the page as well as the list
  drawGroup();
  listenToTokens();
  document.documentElement.dataset.ready = "true";
})().catch((error) => {
  const fault = document.getElementById("fault");
  fault.hidden = false;
  fault.textContent = `The page could not be drawn: ${error.message}. It needs a browser of 2024 or later.`;
  console.error(error);
});
