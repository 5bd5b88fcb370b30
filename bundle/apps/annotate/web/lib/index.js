// What is drawn, from nothing but its arguments.

const STATE_COLOURS = { ".": "#343a43", d: "#5a86b8", r: "#ef6461", g: "#f4c04e", o: "#c58bff", a: "#3f9d78" };
const RANK = ".dargo"; // where several frames share a pixel of the time line, the last of these shows
const STRIPE_PX = 3; // of a mask that is proposed, in pixels of the video
const MARGIN_PX = 9; // of the time line, above and below

/** Fit a canvas's pixels to the screen's; its context then counts in CSS pixels. */
export function clear(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return context;
}

/** Bytes of red, green, blue and alpha as one number, little-endian as on every machine of today. */
function pack(hex, alpha) {
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return ((Math.round(alpha * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/**
 * Turn a label map into a picture: half clear inside of an object, twice as solid along its border.
 * Objects that are proposed are striped.
 */
export function paintMasks(canvas, labels, colours, opacity, proposed) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const [inside, edge] = [new Uint32Array(256), new Uint32Array(256)];
  for (const [id, hex] of Object.entries(colours)) {
    inside[id] = pack(hex, opacity);
    edge[id] = pack(hex, Math.min(1, 2 * opacity));
  }
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const id = labels[i];
      if (!id) continue;
      const border =
        (x > 0 && labels[i - 1] !== id) || (x < width - 1 && labels[i + 1] !== id) ||
        (y > 0 && labels[i - width] !== id) || (y < height - 1 && labels[i + width] !== id);
      const gap = proposed.has(id) && Math.floor((x + y) / STRIPE_PX) % 2;
      if (border || !gap) pixels[i] = border ? edge[id] : inside[id];
    }
  }
  context.putImageData(image, 0, 0);
}

function trace(context, points, kx, ky) {
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x * kx, y * ky));
}

/** Draw what the server has not answered yet. */
export function drawPreview(context, { tool, points, size, colour }, kx, ky) {
  context.globalAlpha = 0.5;
  context.strokeStyle = context.fillStyle = tool === "eraser" ? "#ffffff" : colour;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = size * kx;
  trace(context, points.length === 1 ? [...points, ...points] : points, kx, ky);
  if (tool === "polygon") context.fill();
  else if (tool === "brush" || tool === "eraser") context.stroke();
  context.globalAlpha = 1;
}

/** Draw what was pointed at: on an object in its colour, beside it in red. */
export function drawHint(context, { kind, points, positive, colour }, kx, ky) {
  const [stroke, [x, y]] = [positive ? colour : "#ef6461", points[0].map((each, i) => each * [kx, ky][i])];
  const line = (width, style) => {
    [context.lineWidth, context.strokeStyle] = [width, style];
    context.stroke();
  };
  context.lineCap = context.lineJoin = "round";
  if (kind === "scribble") {
    trace(context, points.length === 1 ? [...points, ...points] : points, kx, ky);
    line(6, "#ffffff");
    line(3.5, stroke);
    return;
  }
  if (kind === "box") {
    context.beginPath();
    context.rect(x, y, points[1][0] * kx - x, points[1][1] * ky - y);
    line(3, "rgba(0, 0, 0, 0.5)");
    line(1.5, stroke);
    return;
  }
  context.beginPath();
  context.arc(x, y, 7, 0, 2 * Math.PI);
  context.fillStyle = stroke;
  context.fill();
  line(1.5, "#ffffff");
  context.beginPath();
  [[-3.5, 0, 3.5, 0], ...(positive ? [[0, -3.5, 0, 3.5]] : [])].forEach(([fromX, fromY, toX, toY]) => {
    context.moveTo(x + fromX, y + fromY);
    context.lineTo(x + toX, y + toY);
  });
  line(2, "#ffffff");
}

/** Draw the polygon that is being set, its first corner larger: there it closes. */
export function drawCorners(context, corners, pointer, colour, kx, ky) {
  trace(context, pointer ? [...corners, pointer] : corners, kx, ky);
  [context.strokeStyle, context.lineWidth] = [colour, 2];
  context.stroke();
  corners.forEach(([x, y], i) => {
    context.beginPath();
    context.arc(x * kx, y * ky, i ? 3 : 5, 0, 2 * Math.PI);
    context.fillStyle = i ? colour : "#ffffff";
    context.fill();
  });
}

/** Draw the brush around the pointer. */
export function drawBrush(context, [x, y], size, colour, kx, ky) {
  context.beginPath();
  context.ellipse(x * kx, y * ky, (size / 2) * kx, (size / 2) * ky, 0, 0, 2 * Math.PI);
  [context.strokeStyle, context.lineWidth] = [colour, 1.5];
  context.stroke();
}

/** Draw the time line: a letter of `states` for each frame, the suggested frame, where we are. */
export function drawTimeLine(canvas, states, count, index, suggested) {
  const context = clear(canvas);
  const [width, height, each] = [canvas.clientWidth, canvas.clientHeight, canvas.clientWidth / count];
  const gap = each > 5 ? 1 : 0;
  const columns = Math.min(count, Math.ceil(width));
  for (let column = 0; column < columns; column++) {
    const from = Math.floor((column * count) / columns);
    const to = Math.max(from + 1, Math.floor(((column + 1) * count) / columns));
    let rank = 0;
    for (let i = from; i < to; i++) rank = Math.max(rank, RANK.indexOf(states[i] ?? "."));
    context.fillStyle = STATE_COLOURS[RANK[rank]];
    context.fillRect((column * width) / columns, MARGIN_PX, width / columns - gap, height - 2 * MARGIN_PX);
  }
  context.fillStyle = "#ffffff";
  if (suggested >= 0) {
    const x = (suggested + 0.5) * each;
    context.beginPath();
    [[x - 4, height], [x + 4, height], [x, height - 7]].forEach((point) => context.lineTo(...point));
    context.fill();
  }
  const x = (index + 0.5) * each;
  context.fillRect(x - 1, 3, 2, height - 6);
  context.beginPath();
  context.arc(x, 5, 4.5, 0, 2 * Math.PI);
  context.fill();
}
