// The video with its masks to paint on, and its time line. The server owns all state: a stroke is sent as
// points, and what comes back is the frame's new label map; until then a preview stands in for it.
// Positions are in pixels of the video, from its top left corner.

import {
  clear, drawBrush, drawCorners, drawHint, drawPreview, drawTimeLine, paintMasks,
} from "tcmn-drawing";

const CLOSE_PX = 9; // a click this near to a polygon's first corner closes it
const MAX_BLOBS = 600; // pictures kept
const POINTING = ["box", "point", "scribble"]; // tools whose answer is a proposal
const AIM_MS = 150; // on a frame, before it is encoded ahead of a click
const MIN_BOX_PX = 4;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export default {
  template: `
    <div class="tcmn-video">
      <canvas ref="view" class="tcmn-view" data-testid="view"></canvas>
      <div class="tcmn-transport">
        <button class="tcmn-play" @click="toggle" :title="playing ? 'Pause (space)' : 'Play (space)'"
          data-testid="play"><i class="material-icons">{{ playing ? "pause" : "play_arrow" }}</i></button>
        <canvas ref="line" class="tcmn-line" data-testid="line"></canvas>
        <span class="tcmn-count" data-testid="count">{{ index }} / {{ count - 1 }}</span>
      </div>
    </div>`,
  props: {
    number: Number, // of the video that is open
    count: Number, // frames
    width: Number, height: Number, // of a frame
    aspect: Number, // height of a pixel over its width
    fps: Number,
    start: Number, // frame
    states: String, // a letter for each frame
    suggested: Number, // -1 for none
    revision: Number,
    proposal: Object, // { frame, hints: [{ kind, object, points, positive }] }, or null
    colours: Object, // by object id
    tool: String,
    size: Number, // of the brush
    keys: Object, // tool by key
    object: Number,
    opacity: Number,
  },
  data() {
    return {
      index: this.start, playing: false,
      active: this.tool, picked: this.object, // ahead of the server, so that a stroke after a key is of its tool
    };
  },
  created() {
    Object.assign(this, {
      shown: -1, labels: null, picture: null, overlay: null, blobs: new Map(), previews: [],
      stroke: null, hint: null, proposed: new Set(), aim: 0, corners: [], pointer: null, pan: null, zoom: 1, shift: [0, 0],
      queue: Promise.resolve(), loading: null,
    });
  },
  mounted() {
    const { view, line } = this.$refs;
    this.observer = new ResizeObserver(() => this.draw());
    [view, line].forEach((canvas) => this.observer.observe(canvas));
    view.addEventListener("pointerdown", this.press);
    view.addEventListener("pointermove", this.move);
    view.addEventListener("pointerup", this.release);
    view.addEventListener("pointercancel", this.release);
    view.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
    view.addEventListener("dblclick", () => this.closePolygon());
    view.addEventListener("contextmenu", (event) => event.preventDefault());
    view.addEventListener("wheel", this.wheel, { passive: false });
    line.addEventListener("pointerdown", (event) => { line.setPointerCapture(event.pointerId); this.seek(event); });
    line.addEventListener("pointermove", (event) => event.buttons & 1 && this.seek(event));
    window.addEventListener("keydown", this.key, true); // before a slider that has the focus
    this.go(this.start);
  },
  unmounted() {
    this.playing = false;
    clearTimeout(this.aim);
    this.observer.disconnect();
    window.removeEventListener("keydown", this.key, true);
  },
  watch: {
    revision() { this.refresh(); },
    colours() { this.compose(); },
    opacity() { this.compose(); },
    states() { this.drawLine(); },
    suggested() { this.drawLine(); },
    size() { this.draw(); },
    tool(tool) { this.active = tool; },
    object(id) { this.picked = id; },
    active() { this.corners = []; this.draw(); this.prepare(); },
    proposal() { this.compose(); },
  },
  methods: {
    // Frames and masks from the server

    go(index) {
      this.index = clamp(Math.round(index), 0, this.count - 1);
      this.drawLine();
      this.$emit("frame", this.index);
      this.loading ??= this.load().finally(() => { this.loading = null; });
      return this.loading;
    },
    async load() {
      while (this.shown !== this.index) {
        const index = this.index;
        try {
          const [picture, labels] = await Promise.all([this.fetchFrame(index), this.fetchLabels(index)]);
          this.picture?.close();
          [this.picture, this.labels, this.shown, this.corners] = [picture, labels, index, []];
          this.compose();
          this.prepare();
        } catch (error) {
          this.playing = false;
          this.$emit("problem", error.message);
          return;
        }
      }
    },
    async fetchFrame(index) {
      if (!this.blobs.has(index)) {
        const answer = await this.ask(`/frames/${this.number}/${index}`);
        this.blobs.set(index, await answer.blob());
        if (this.blobs.size > MAX_BLOBS) this.blobs.delete(this.blobs.keys().next().value);
      }
      return createImageBitmap(this.blobs.get(index));
    },
    async fetchLabels(index) {
      const answer = await this.ask(`/labels/${this.number}/${index}`);
      return new Uint8Array(await answer.arrayBuffer());
    },
    async ask(address, body) {
      const options = body && {
        method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
      };
      const answer = await fetch(address, options).catch(() => null);
      if (!answer) throw new Error("the program does not answer: is it still running?");
      if (answer.ok) return answer;
      const detail = (await answer.json().catch(() => ({}))).detail;
      throw new Error(typeof detail === "string" ? detail : `the request was refused (${answer.status})`);
    },
    later(task) { // one after another, so that answers cannot overtake one another
      this.queue = this.queue.then(task).catch((error) => this.$emit("problem", error.message));
      return this.queue;
    },
    refresh() {
      return this.later(async () => {
        const index = this.shown;
        if (index < 0) return;
        const labels = await this.fetchLabels(index);
        if (index === this.shown) { this.labels = labels; this.compose(); }
      });
    },
    propose(hint, time) { // time: when it was clicked
      const preview = { index: this.shown, ...hint, object: this.picked };
      this.previews.push(preview);
      this.draw();
      return this.later(async () => {
        try {
          const { index, ...body } = preview;
          const answer = await this.ask(`/propose/${this.number}/${index}`, body);
          const labels = new Uint8Array(await answer.arrayBuffer());
          if (index === this.shown) {
            this.labels = labels;
            this.proposed.add(body.object);
          }
          requestAnimationFrame(() => performance.measure("tcmn-propose", { start: time, end: performance.now() }));
          this.$emit("proposed", body.object);
        } finally {
          this.previews = this.previews.filter((each) => each !== preview);
          this.compose(false);
        }
      });
    },
    prepare() {
      clearTimeout(this.aim);
      if (!POINTING.includes(this.active) || this.playing) return;
      this.aim = setTimeout(() => this.shown === this.index && this.$emit("aiming", this.shown), AIM_MS);
    },
    send(tool, points = []) {
      const preview = { index: this.shown, tool, points, size: this.size, object: this.picked };
      if (preview.index < 0) return this.queue;
      this.previews.push(preview);
      this.draw();
      return this.later(async () => {
        try {
          const { index, ...drawing } = preview;
          const answer = await this.ask(`/draw/${this.number}/${index}`, drawing);
          const labels = new Uint8Array(await answer.arrayBuffer());
          if (index === this.shown) this.labels = labels;
          this.$emit("edited", index);
        } finally {
          this.previews = this.previews.filter((each) => each !== preview);
          this.compose();
        }
      });
    },

    // Painting

    press(event) {
      this.$refs.view.setPointerCapture(event.pointerId);
      document.activeElement?.blur();
      if (event.button === 1 || (event.button === 0 && event.shiftKey)) {
        event.preventDefault();
        this.pan = [event.clientX - this.shift[0], event.clientY - this.shift[1]];
        return;
      }
      if (this.shown !== this.index || this.playing) return;
      const point = this.where(event);
      if (POINTING.includes(this.active)) return this.pressHint(event, this.inside(point));
      const tool = event.button === 2 ? "eraser" : this.active;
      if (tool === "brush" || tool === "eraser") this.stroke = { tool, points: [point] };
      else if (tool === "fill") this.send("fill", [point]);
      else if (tool === "polygon") this.addCorner(point);
      this.draw();
    },
    move(event) {
      if (this.pan) this.shift = [event.clientX - this.pan[0], event.clientY - this.pan[1]];
      this.pointer = this.where(event);
      if (this.stroke || this.hint) {
        const all = event.getCoalescedEvents?.() ?? [];
        const points = (all.length ? all : [event]).map((each) => this.where(each));
        if (this.stroke) this.stroke.points.push(...points);
        else this.moveHint(points.map(this.inside));
      }
      this.draw();
    },
    release(event) {
      this.pan = null;
      if (this.hint) this.releaseHint(event);
      if (this.stroke) {
        const { tool, points } = this.stroke;
        this.stroke = null;
        this.send(tool, points);
      }
    },
    pressHint(event, point) {
      const positive = event.button !== 2 && !event.altKey;
      if (this.active === "point" || (this.active === "box" && !positive)) {
        return this.propose({ kind: "point", points: [point], positive }, event.timeStamp);
      }
      this.hint = { kind: this.active, points: this.active === "box" ? [point, point] : [point], positive };
      this.draw();
    },
    moveHint(points) {
      const { hint } = this;
      if (hint.kind === "box") hint.points = [hint.points[0], points[points.length - 1]];
      else hint.points.push(...points);
    },
    releaseHint(event) {
      const [hint, { kx, ky }] = [this.hint, this.frame()];
      this.hint = null;
      const [[left, top], [right, bottom]] = [hint.points[0], hint.points[hint.points.length - 1]];
      const narrow = Math.min(Math.abs(right - left) * kx, Math.abs(bottom - top) * ky) < MIN_BOX_PX;
      if (event.type === "pointercancel") this.draw();
      else if (hint.kind !== "box" || !narrow) this.propose(hint, event.timeStamp);
      else this.$emit("problem", "a box needs an area: drag from one corner to the opposite one");
    },
    inside([x, y]) { // the nearest point of the frame, so that a drag may leave it
      return [clamp(x, 0, this.width - 0.01), clamp(y, 0, this.height - 0.01)];
    },
    addCorner(point) {
      const [first, { kx, ky }] = [this.corners[0], this.frame()];
      const near = first && Math.hypot((first[0] - point[0]) * kx, (first[1] - point[1]) * ky) < CLOSE_PX;
      if (near && this.corners.length > 2) this.closePolygon();
      else if (!near || this.corners.length > 1) this.corners.push(point);
    },
    closePolygon() {
      const corners = this.corners.splice(0);
      if (corners.length > 2) this.send("polygon", corners);
      this.draw();
    },

    // Moving about

    frame() { // where the video lies in the view, in CSS pixels
      const { clientWidth, clientHeight } = this.$refs.view;
      const fit = Math.min(clientWidth / this.width, clientHeight / (this.height * this.aspect)) * 0.98;
      const [kx, ky] = [fit * this.zoom, fit * this.zoom * this.aspect];
      const left = (clientWidth - this.width * kx) / 2 + this.shift[0];
      return { kx, ky, left, top: (clientHeight - this.height * ky) / 2 + this.shift[1] };
    },
    where(event) {
      const [box, { kx, ky, left, top }] = [this.$refs.view.getBoundingClientRect(), this.frame()];
      return [(event.clientX - box.left - left) / kx, (event.clientY - box.top - top) / ky];
    },
    wheel(event) {
      event.preventDefault();
      if (!event.ctrlKey) return this.go(this.index + Math.sign(event.deltaY));
      const before = this.where(event);
      this.zoom = clamp(this.zoom * 1.2 ** -Math.sign(event.deltaY), 1, 20);
      const [after, { kx, ky }] = [this.where(event), this.frame()];
      this.shift = [this.shift[0] + (after[0] - before[0]) * kx, this.shift[1] + (after[1] - before[1]) * ky];
      if (this.zoom === 1) this.shift = [0, 0];
      this.draw();
    },
    seek(event) {
      const { left, width } = this.$refs.line.getBoundingClientRect();
      this.go(Math.floor(((event.clientX - left) / width) * this.count));
    },
    async toggle() {
      this.playing = !this.playing;
      while (this.playing) {
        const begin = performance.now();
        await this.go((this.index + 1) % this.count);
        const rest = 1000 / this.fps - (performance.now() - begin);
        await new Promise((resolve) => setTimeout(resolve, Math.max(rest, 0)));
      }
    },
    key(event) {
      const elsewhere = event.target.closest?.("input, textarea") || document.querySelector(".q-dialog");
      if (elsewhere || event.altKey) return;
      if (event.key === " " && event.target.matches?.("button:focus-visible")) return;
      const step = event.shiftKey ? 10 : 1;
      const actions = {
        ArrowLeft: () => this.go(this.index - step), ArrowRight: () => this.go(this.index + step),
        Home: () => this.go(0), End: () => this.go(this.count - 1), " ": () => this.toggle(),
      };
      if (this.corners.length) {
        actions.Enter = this.closePolygon;
        actions.Escape = () => { this.corners = []; this.draw(); };
        actions.Backspace = () => { this.corners.pop(); this.draw(); };
      } else if (this.proposal?.frame === this.shown) {
        actions.Enter = () => this.shortcut("accept");
        actions.Escape = () => this.shortcut("drop");
      }
      if (event.ctrlKey || event.metaKey) {
        const letter = event.key.toLowerCase();
        if (letter !== "z" && letter !== "y") return;
        this.shortcut(letter === "y" || event.shiftKey ? "redo" : "undo");
      } else if (actions[event.key]) actions[event.key]();
      else if (/^[bepfxcsnkadA[\]1-9]$/.test(event.key)) {
        this.active = this.keys[event.key] ?? this.active;
        if (event.key in this.colours) this.picked = Number(event.key);
        this.shortcut(event.key);
      } else return;
      event.preventDefault();
      event.stopPropagation();
    },
    shortcut(key) { // with the frame that is seen: the server hears of a new one a little later
      this.$emit("shortcut", key, Math.max(this.shown, 0));
    },

    // Drawing

    compose(anew = true) { // else objects that were just proposed stay so until the server says more
      if (!this.labels) return;
      const here = this.proposal?.frame === this.shown ? this.proposal.hints : [];
      if (anew) this.proposed = new Set(here.map((hint) => hint.object));
      const size = { width: this.width, height: this.height };
      this.overlay ??= Object.assign(document.createElement("canvas"), size);
      paintMasks(this.overlay, this.labels, this.colours, this.opacity, this.proposed);
      this.draw();
    },
    draw() {
      if (!this.$refs.view) return;
      const context = clear(this.$refs.view);
      this.drawLine();
      if (!this.picture) return;
      const { kx, ky, left, top } = this.frame();
      context.imageSmoothingQuality = "high";
      context.drawImage(this.picture, left, top, this.width * kx, this.height * ky);
      context.imageSmoothingEnabled = false;
      context.drawImage(this.overlay, left, top, this.width * kx, this.height * ky);
      context.translate(left, top);
      const colour = this.colours[this.picked];
      const pending = this.previews.filter((each) => each.index === this.shown);
      if (this.stroke) pending.push({ ...this.stroke, size: this.size, object: this.picked });
      if (this.hint) pending.push({ ...this.hint, object: this.picked });
      if (this.proposal?.frame === this.shown) pending.unshift(...this.proposal.hints);
      for (const each of pending) {
        const coloured = { ...each, colour: this.colours[each.object] };
        (each.kind ? drawHint : drawPreview)(context, coloured, kx, ky);
      }
      if (this.corners.length) drawCorners(context, this.corners, this.pointer, colour, kx, ky);
      if (this.pointer && !this.playing && ["brush", "eraser"].includes(this.active)) {
        drawBrush(context, this.pointer, this.size, this.active === "brush" ? colour : "#ffffff", kx, ky);
      }
    },
    drawLine() {
      const { line, view } = this.$refs;
      if (!line) return;
      drawTimeLine(line, this.states, this.count, this.index, this.suggested);
      view.dataset.ready = this.shown === this.index; // else a click would hit another frame
    },
  },
};
