"use strict";
// What a sample looks like, in samples.html and in JupyterLab; samples.html beside this is the same without a script.
// Every text of a model or a data set reaches the page through textContent; nothing here parses markup.

const HTML_TAGS = new Set("b i code pre table tr th td".split(" "));
const MATHML = new Set(("math mrow mi mn mo mtext mspace mfrac msqrt mroot mstyle msub msup msubsup munder mover "
  + "munderover mtable mtr mtd mpadded mphantom menclose").split(" "));
const ATTRIBUTES = new Set(("display displaystyle linethickness stretchy fence form width columnalign class "
  + "mathvariant").split(" "));
const ACTS_UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}]/u;
const FOLD = 400; // characters of reasoning that stand open
const MARKS = { unjudged: "not judged", right: "✓ right", wrong: "✗ wrong" };

// An element with a class, or with properties and attributes by their names; null is no child.
function element(tag, given = "", ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(typeof given !== "string" ? given : given ? { className: given } : {})) {
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const button = (label, title, onclick, className = "") =>
  element("button", { type: "button", title, onclick, className }, label);

const counted = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
const numberText = (value) => (value === null ? "none" : String(Math.round(value * 1000) / 1000));
const signed = (value) => (value < 0 ? "" : "+") + value.toFixed(2);

// Characters that are not seen but change what is: shown by their number.
function visible(text) {
  const part = document.createDocumentFragment();
  let plain = "";
  for (const char of text) {
    if (char === "\n" || char === "\t" || !ACTS_UNSEEN.test(char)) { plain += char; continue; }
    const code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    part.append(plain, element("span", "hidden-char", "U+" + code));
    plain = "";
  }
  part.append(plain);
  return part;
}

function clipped(text, limit) {
  const letters = [...text]; // a slice of the string could cut a pair of surrogates
  if (letters.length <= limit * 1.2) return visible(text);
  const part = document.createDocumentFragment();
  const more = element("details", "more", element("summary", {}, `show all ${counted(letters.length, "character")}`));
  more.ontoggle = () => {
    if (more.open && more.children.length === 1) more.append(element("div", "text", visible(text)));
  };
  part.append(visible(letters.slice(0, limit).join("")), "…", more);
  return part;
}

const textBox = (tag, className, ...children) =>
  element(tag, { className: ("text " + className).trim(), dir: "auto" }, ...children);

// A tree that Python set (typeset.py): known tags and attributes only.
function built(nodes) {
  const part = document.createDocumentFragment();
  for (const node of nodes) {
    if (typeof node === "string") { part.append(visible(node)); continue; }
    const [tag, attributes, ...inside] = node;
    if (!HTML_TAGS.has(tag) && !MATHML.has(tag)) continue;
    const space = MATHML.has(tag) ? "http://www.w3.org/1998/Math/MathML" : "http://www.w3.org/1999/xhtml";
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) if (ATTRIBUTES.has(name)) made.setAttribute(name, value);
    made.append(built(inside));
    part.append(made);
  }
  return part;
}

// The words of two texts in one row of [sign, words]: = in both, - in the first only, + in the second only.
function wordDiff(before, after) {
  const WORDS = /[ \t\r\n\f\v]+|[\p{L}\p{N}_]+[ \t\r\n\f\v]*|[^\p{L}\p{N}_ \t\r\n\f\v][ \t\r\n\f\v]*/gu;
  const [a, b] = [before, after].map((text) => (text.match(WORDS) || []).slice(0, 1200)), wide = b.length + 1;
  const common = new Uint16Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) {
    const here = i * wide + j;
    common[here] = a[i] === b[j] ? common[here + wide + 1] + 1 : Math.max(common[here + wide], common[here + 1]);
  }
  const row = [];
  const add = (sign, word) => {
    if (row.at(-1)?.[0] === sign) row.at(-1)[1] += word; else row.push([sign, word]);
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    const here = i * wide + j;
    if (i < a.length && j < b.length && a[i] === b[j]) { add("=", a[i++]); j++; }
    else if (j >= b.length || (i < a.length && common[here + wide] >= common[here + 1])) add("-", a[i++]);
    else add("+", b[j++]);
  }
  return row;
}

// A piece of a completion as Python cut it: its label, which begins with its role, its text, and its tree or null.
function pieceBox([label, text, tree]) {
  const letters = [...text], role = label.match(/\w+/)[0];
  const written = () => (tree ? built(tree) : visible(text));
  if (role === "solution") {
    const shown = letters.length > FOLD ? clipped(text, FOLD) : written();
    return element("div", "segment solution", element("div", "label", label), textBox("div", "", shown));
  }
  const count = letters.length > FOLD ? ` · ${counted(letters.length, "character")}` : "";
  const teaser = letters.slice(0, 160).join("");
  const fold = element("details", "segment fold " + role, element("summary", {},
    element("span", "label", label + count),
    element("span", "teaser", visible(teaser), letters.length > 160 ? "…" : "")));
  fold.fill = () => {
    if (fold.children.length === 1) fold.append(textBox("div", letters.length > 5000 ? "long" : "", written()));
  };
  fold.ontoggle = () => { if (fold.open) fold.fill(); };
  fold.open = letters.length <= FOLD;
  if (letters.length <= 20000) fold.fill();
  return fold;
}

function chips(row, names) {
  const chip = (className, ...children) => element("span", ("chip " + className).trim(), ...children);
  const { advantage, length } = row, sign = advantage > 0 ? "plus" : advantage < 0 ? "minus" : "";
  return element("div", "chips",
    ...row.rewards.map((value, place) => chip("", visible(names[place]), " " + numberText(value))),
    advantage === null ? null : chip(sign, "advantage " + signed(advantage)),
    length === null ? null : chip("", counted(length, "token")),
    row.cut ? chip("alarm", "cut off") : null);
}

function completionCard(row, info) {
  const judged = row.correct === null ? "unjudged" : row.correct ? "right" : "wrong";
  const said = [row.when, row.reward === null ? "" : "reward " + numberText(row.reward)].filter(Boolean).join(" · ");
  const letters = [...row.text];
  const pieces = row.pieces.map(([label, from, to, tree = null]) => [label, letters.slice(from, to).join(""), tree]);
  const boxes = pieces.map(pieceBox);
  const solutions = boxes.filter((box) => box.classList.contains("solution"));
  return element("article", "completion " + judged,
    element("div", "verdict", element("span", "mark", MARKS[judged]), element("span", {}, said)),
    ...solutions,
    boxes.length ? null : element("div", "segment outside", element("div", "label", "empty completion")),
    row.reason ? textBox("div", "reason", clipped(row.reason, 300)) : null,
    chips(row, info.rewards),
    ...boxes.filter((box) => !solutions.includes(box)),
    pieces.some(([, , tree]) => tree)
      ? element("details", "more raw", element("summary", {}, "as written"), textBox("div", "", visible(row.text)))
      : null);
}

function problemCard(problem, picture, square) {
  const { choices, trees } = problem;
  const written = (text, place, limit) => (trees?.[place] ? built(trees[place]) : clipped(text, limit));
  const lettered = (text, place) => element("li", {}, `(${String.fromCharCode(65 + place)}) `,
    textBox("span", "", written(text, place + 1, 200)));
  return element("div", "problem",
    ...(picture ? pictureBox(picture, square) : [element("p", "noimage", "no picture")]),
    element("div", {}, element("div", "label", "question"),
      textBox("div", "question", written(problem.question, 0, 700)),
      choices ? element("ul", "choices", ...choices.map(lettered)) : null),
    element("div", "gold", element("div", "label", "gold answer"),
      textBox("b", "", written(problem.answer, (choices?.length ?? 0) + 1, 200)),
      ...(problem.unit ? [" ", visible(problem.unit)] : [])));
}

function pictureBox(src, square) {
  const image = element("img", { src, alt: "the problem's picture" });
  const zoom = button(image, "enlarge beside the completions (z)", () => toggleZoom(zoom.closest(".group")), "picture");
  zoom.setAttribute("aria-pressed", "false");
  if (!square) return [zoom];
  const size = `${square} × ${square} pixels`;
  const see = button("what the model sees", `${size}, whatever the picture's shape`, () => {
    const shown = zoom.querySelector("canvas");
    image.hidden = !shown;
    see.textContent = shown ? "what the model sees" : `${size}; show the picture`;
    if (shown) { shown.remove(); return; }
    const canvas = element("canvas", { className: "seen", width: square, height: square, role: "img" });
    canvas.setAttribute("aria-label", `the picture as ${size}`);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, 0, 0, square, square);
    image.after(canvas);
  }, "link");
  return [zoom, see];
}

function toggleZoom(group, on = !group.classList.contains("zoomed")) {
  group.classList.toggle("zoomed", on);
  for (const picture of group.querySelectorAll(".picture")) picture.setAttribute("aria-pressed", String(on));
}

const choice = (label, value) => element("option", { value }, visible(label));

function differences(rows) {
  const names = rows.map((row, place) => `${place + 1}: ${row.when || (row.correct ? "right" : "wrong")}`);
  const shown = textBox("div", "diff");
  const pick = (chosen) => {
    const select = element("select", { onchange: draw }, ...names.map((name, place) => choice(name, place)));
    select.value = chosen;
    return select;
  };
  const right = Math.max(0, rows.findIndex((row) => row.correct));
  const other = right === 0 ? Math.max(1, rows.findIndex((row) => !row.correct)) : 0;
  const [first, second] = (rows[0].when ? [0, rows.length - 1] : [other, right]).map(pick);
  function draw() {
    const row = wordDiff(rows[first.value].text, rows[second.value].text);
    const tags = { "=": "span", "-": "del", "+": "ins" };
    shown.replaceChildren(...row.map(([sign, words]) => element(tags[sign], {}, visible(words))));
  }
  draw();
  return element("div", "differences", element("label", {}, "from ", first), element("label", {}, "to ", second),
    element("span", "label", "struck: only in the first; underlined: only in the second"), shown);
}

// The log-prob of each token when it was sampled, as colour under the text: the deeper, the less likely it was.
function colouredWords({ text, tokens: [lengths, values] }) {
  const letters = [...text], reach = Math.max(...values.map(Math.abs)) || 1;
  let place = 0;
  const words = lengths.map((length, at) => {
    const word = element("span", { className: "word", tabIndex: 0, "data-told": values[at].toFixed(2) },
      visible(letters.slice(place, place += length).join("") || "⏎"));
    word.style.background = `rgba(213,94,0,${(0.55 * Math.sqrt(Math.abs(values[at]) / reach)).toFixed(2)})`;
    return word;
  });
  const scale = `${(-reach).toFixed(2)} (deep) to 0 (pale)`;
  return element("div", "words",
    element("div", "label", `log-probability when it was sampled, in nats: ${scale}`), ...words);
}
