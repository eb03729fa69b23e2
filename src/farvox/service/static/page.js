// Compare, enrol and identify through the service that this page comes from. Nothing is stored: no cookie, no
// storage of the browser; recordings, token and history are gone with the page.

const MOST_SECONDS = 30;  // of a recording by the microphone
const BARS = 240;  // of a waveform
const [LOWEST, HIGHEST] = [-0.5, 1];  // of the scale of scores
const TASKS = { compare: "Compare", enrol: "Enrol", identify: "Identify" };

const find = (selector, root = document) => root.querySelector(selector);
const copyOf = name => find(`#${name}-template`).content.cloneNode(true);
const task = () => new FormData(find("#task")).get("task");
const seconds = number => `${number.toFixed(1)} s`;

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function say(problem) {
  find("#problem").textContent = problem;
}

// Waveforms and sound

function bars(samples) {
  let loudest = 1e-4, drawn = "";
  const size = Math.max(1, samples.length / BARS), peaks = [];
  for (let bar = 0; bar < Math.min(BARS, samples.length); bar++) {
    let peak = 0;
    const end = Math.min(samples.length, Math.floor((bar + 1) * size));
    for (let n = Math.floor(bar * size); n < end; n++) peak = Math.max(peak, Math.abs(samples[n]));
    peaks.push(peak);
    loudest = Math.max(loudest, peak);
  }
  peaks.forEach((peak, bar) => {
    const height = 0.4 + 19 * peak / loudest;
    drawn += `M${bar + 0.5} ${(20 - height).toFixed(2)}v${(2 * height).toFixed(2)}`;
  });
  return drawn;
}

function wav(blocks, rate) {
  const count = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const text = (at, word) => [...word].forEach((letter, n) => view.setUint8(at + n, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * count, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * count, true);
  let at = 44;
  for (const block of blocks) {
    for (const sample of block) {
      view.setInt16(at, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

async function microphone() {
  if (!navigator.mediaDevices) {
    throw new Error("The browser gives the microphone to pages over HTTPS, or of this machine, only. Choose a file.");
  }
  const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: plain });
  } catch (error) {
    throw new Error(`No microphone: ${error.message}. Allow it in the browser, or choose a file.`);
  }
}

class Side {
  constructor(root) {
    this.root = root;
    this.title = find("h2", root).textContent;
    this.most = Number(root.dataset.most);
    this.clips = [];
    this.count = 0;
    root.append(copyOf("side"));
    this.button = find(".record", root);
    this.button.setAttribute("aria-label", `Record: ${this.title}`);
    this.button.addEventListener("click", () => this.stop ? this.stop() : this.record());
    const input = find("input", root);
    input.multiple = this.most > 1;
    input.setAttribute("aria-label", `Choose or drop a file: ${this.title}`);
    input.addEventListener("change", () => {
      this.take(input.files);
      input.value = "";
    });
    root.addEventListener("dragover", event => {
      event.preventDefault();
      root.classList.add("over");
    });
    root.addEventListener("dragleave", () => root.classList.remove("over"));
    root.addEventListener("drop", event => {
      event.preventDefault();
      root.classList.remove("over");
      this.take(event.dataTransfer.files);
    });
  }

  take(files) {
    say("");
    for (const file of files) this.add(file, file.name);
  }

  async add(blob, name) {
    if (this.most === 1 && this.clips.length) this.remove(this.clips[0]);
    if (this.clips.length >= this.most) return say(`${this.title}: ${this.most} recordings at most; remove one.`);
    const root = copyOf("clip").firstElementChild, clip = { blob, name, root };
    this.clips.push(clip);
    find(".clips", this.root).append(root);
    find("h3", root).textContent = name;
    const player = find("audio", root);
    player.src = URL.createObjectURL(blob);
    player.setAttribute("aria-label", `Play ${name}`);
    const remove = find(".remove", root);
    remove.setAttribute("aria-label", `Remove ${name}`);
    remove.addEventListener("click", () => {
      this.remove(clip);
      this.button.focus();
    });
    const told = find(".facts", root), wave = find(".wave", root);
    try {
      const sound = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await blob.arrayBuffer());
      find("path", wave).setAttribute("d", bars(sound.getChannelData(0)));
      wave.setAttribute("aria-label", `Waveform of ${name}, ${seconds(sound.duration)}`);
      told.textContent = seconds(sound.duration);
    } catch {
      wave.remove();
      player.remove();
      told.textContent = "The browser does not know this format; the service may.";
    }
  }

  remove(clip) {
    URL.revokeObjectURL(find("audio", clip.root)?.src);
    clip.root.remove();
    this.clips.splice(this.clips.indexOf(clip), 1);
  }

  async record() {
    say("");
    const time = find(".time", this.root);
    let stream, context;
    this.stop = () => {};  // until it has begun
    try {
      stream = await microphone();
      context = new AudioContext();
      await context.audioWorklet.addModule("tape.js");
    } catch (error) {
      stream?.getTracks().forEach(track => track.stop());
      context?.close();
      this.stop = null;
      return say(error.message);
    }
    const blocks = [], node = new AudioWorkletNode(context, "tape");
    let taken = 0;
    node.port.onmessage = ({ data }) => {
      if (!this.stop) return;
      blocks.push(data);
      taken += data.length;
      time.textContent = `${seconds(taken / context.sampleRate)} of at most ${MOST_SECONDS} s`;
      if (taken >= MOST_SECONDS * context.sampleRate) this.stop();
    };
    context.createMediaStreamSource(stream).connect(node).connect(context.destination);  // which hears silence
    this.root.classList.add("recording");
    this.label("Stop");
    this.stop = () => {
      this.stop = null;
      stream.getTracks().forEach(track => track.stop());
      context.close();
      this.root.classList.remove("recording");
      this.label("Record");
      time.textContent = "";
      if (taken) this.add(wav(blocks, context.sampleRate), `recording ${++this.count}`);
    };
  }

  label(word) {
    this.button.textContent = word;
    this.button.setAttribute("aria-label", `${word}: ${this.title}`);
  }

}

function note(clips, recordings) {
  recordings.forEach((told, n) => {
    const { root, name } = clips[n], notes = find(".notes", root);
    const speech = told.speech_seconds === null ? "" : `, ${seconds(told.speech_seconds)} of speech`;
    const channels = told.num_channels === 1 ? "1 channel" : `${told.num_channels} channels`;
    find(".facts", root).textContent = `${seconds(told.seconds)}${speech}, ${told.sample_rate} Hz, ${channels}`;
    notes.setAttribute("aria-label", `Notes on ${name}`);
    notes.hidden = false;
    notes.replaceChildren(...told.notes.map(each =>
      element("li", (each.serious ? "Serious: " : "Note: ") + each.text, each.serious ? "serious" : "")));
    if (!told.notes.length) notes.append(element("li", "No notes."));
  });
}

// Questions and answers

async function ask(path, body, needsToken) {
  const headers = needsToken ? { Authorization: `Bearer ${find("#token").value.trim()}` } : {};
  let reply;
  try {
    reply = await fetch(`v1/${path}`, { method: "POST", body, headers, credentials: "omit" });
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const told = await reply.json().catch(() => ({}));
  if (reply.ok) return told;
  const again = reply.status === 503 ? " Ask again in a moment." : "";
  throw new Error(`${told.detail ?? `The service answers with status ${reply.status}`}.${again}`);
}

function percent(probability) {
  if (probability >= 0.001 && probability <= 0.999) return `${(100 * probability).toFixed(1)} %`;
  return probability < 0.5 ? "under 0.1 %" : "over 99.9 %";
}

function scale(score, threshold) {
  const made = copyOf("scale").firstElementChild;
  const place = value => `${100 * Math.max(0, Math.min(1, (value - LOWEST) / (HIGHEST - LOWEST)))}%`;
  made.setAttribute("aria-label", `Score ${score.toFixed(4)}, from the threshold ${threshold.toFixed(4)} on the same speaker`);
  made.style.setProperty("--score", place(score));
  made.style.setProperty("--threshold", place(threshold));
  return made;
}

function list(facts) {
  const made = document.createElement("dl");
  for (const [name, value] of facts) made.append(element("dt", name), element("dd", value));
  return made;
}

function answer(said, details, kind = "") {
  find("#answer").className = kind;
  find("#said").textContent = said;
  find("#details").replaceChildren(...details);
  const at = new Date().toLocaleTimeString();
  find("#history").prepend(element("li", `${at}  ${said}`));
  find("#clear").hidden = false;
}

function form(...sides) {
  const made = new FormData();
  for (const [field, clips] of sides) for (const { blob, name } of clips) made.append(field, blob, name);
  return made;
}

const known = new Side(find("[data-side=known]"));
const asked = new Side(find("[data-side=asked]"));

const DO = {
  async compare() {
    const sides = [[...known.clips], [...asked.clips]];
    const found = await ask("verify", form(["enrol", sides[0]], ["test", sides[1]]));
    note(sides[0], found.enrol);
    note(sides[1], found.test);
    const facts = [["Score", found.score.toFixed(4)], ["Threshold", found.threshold.toFixed(4)]];
    if (found.probability !== null) {
      facts.push(["Probability", `${percent(found.probability)} the same, if both were equally likely before`]);
    }
    if (found.band === "narrow") facts.push(["Band", "below 4 kHz, as a recording has no more"]);
    facts.push(["Compared", sides.map(clips => clips.map(({ name }) => name).join(", ")).join(" with ")]);
    const said = found.same ? "Same speaker" : "Different speakers";
    answer(`${said}: score ${found.score.toFixed(4)}`, [scale(found.score, found.threshold), list(facts)],
      found.same ? "same" : "other");
  },
  async enrol() {
    const name = encodeURIComponent(find("#name").value.trim()), clips = [...known.clips];
    const found = await ask(`enrol?name=${name}`, form(["audio", clips]), true);
    note(clips, found.recordings);
    const count = found.num_recordings === 1 ? "1 recording" : `${found.num_recordings} recordings`;
    answer(`${found.name} is enrolled with ${count}, ${seconds(found.seconds)}`, []);
  },
  async identify() {
    const clips = [...asked.clips], found = await ask("identify", clips[0].blob, true);
    note(clips, found.test);
    const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    for (const title of ["Speaker", "Score"]) {
      head.append(Object.assign(element("th", title), { scope: "col" }));
    }
    for (const { name, score } of found.candidates) {
      body.insertRow().append(element("td", name), element("td", score.toFixed(4)));
    }
    const best = found.candidates[0]?.score;
    const facts = [["Threshold", found.threshold.toFixed(4)], ["Enrolled", `${found.num_speakers}`]];
    const drawn = best === undefined ? [] : [scale(best, found.threshold)];
    answer(found.name === null ? "Unknown: no enrolled speaker" : `It is ${found.name}: score ${best.toFixed(4)}`,
      [...drawn, table, list(facts)], found.name === null ? "other" : "same");
  },
};

function missing() {
  const sides = [known, asked].filter(({ root }) => root.dataset.for.includes(task()));
  const empty = sides.find(({ clips }) => !clips.length);
  if (empty) return [empty.button, `${empty.title}: record, or choose a file.`];
  if (task() === "enrol" && !find("#name").value.trim()) return [find("#name"), "Give the name of the speaker."];
  if (task() !== "compare" && !find("#token").value.trim()) return [find("#token"), "Give the token of the service."];
  return null;
}

function show() {
  for (const each of document.querySelectorAll("[data-for]")) each.hidden = !each.dataset.for.includes(task());
  find("#go").textContent = TASKS[task()];
  say("");
}

find("#task").addEventListener("change", event => event.target.name === "task" && show());
find("#task").addEventListener("submit", async event => {
  event.preventDefault();
  const go = find("#go");
  if (go.getAttribute("aria-busy") === "true") return;
  [known, asked].forEach(side => side.stop?.());
  const wrong = missing();
  if (wrong) {
    wrong[0].focus();
    return say(wrong[1]);
  }
  say("");
  go.setAttribute("aria-busy", "true");
  find("#said").textContent = "Listening ...";
  try {
    await DO[task()]();
  } catch (error) {
    find("#answer").className = "";
    find("#said").textContent = "No answer.";
    find("#details").replaceChildren();
    say(error.message);
  } finally {
    go.setAttribute("aria-busy", "false");
  }
});
find("#clear").addEventListener("click", () => {
  find("#history").replaceChildren();
  find("#clear").hidden = true;
  find("#history-title").scrollIntoView();
});
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, event => event.preventDefault());
show();
fetch("v1/ready").then(reply => reply.json()).then(({ model, backend }) => {
  find("#model").textContent = `Model ${model}, computed by ${backend}.`;
}, () => say("The service does not answer. Is it still running?"));
