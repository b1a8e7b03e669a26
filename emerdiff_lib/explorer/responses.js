// Everything that follows from an image's stored responses, computed where it is shown: numbers and files, no drawing.
//
// `data` is what payload() of widget.py makes: a header of plain values, and arrays as compressed base64.

const TYPES = { int8: Int8Array, uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };

const through = (bytes, transform) => new Response(new Blob([bytes]).stream().pipeThrough(transform)).arrayBuffer();

async function decode({ dtype, zlib }) {
  const bytes = Uint8Array.from(atob(zlib), (letter) => letter.charCodeAt(0));
  return new TYPES[dtype](await through(bytes, new DecompressionStream("deflate")));
}

class ImageResponses {
  static async from(data) {
    const responses = Object.assign(new ImageResponses(), data.header);
    const arrays = Object.entries(data.arrays).map(async ([name, array]) => (responses[name] = await decode(array)));
    await Promise.all(arrays);
    [responses.height, responses.width] = responses.shownSize; // pixels (x, y) below are of the image that is shown
    [responses.rows, responses.columns] = responses.grid; // of coarse cells
    [responses.h, responses.w] = responses.codesSize; // of the responses
    responses.pixels = responses.h * responses.w;
    responses.parts = responses.scales.length;
    responses.regions = responses.groups.length / responses.numbers.length;
    responses.cellsOfPart = new Uint16Array(responses.parts);
    for (const part of responses.partOfCell) responses.cellsOfPart[part] += 1;
    return responses;
  }

  // Signed response of part p, channel c, at place i: root codes, as responses.py has them.
  signed(p, c, i) {
    const root = this.codes[(p * 3 + c) * this.pixels + i] / 127;
    return root * Math.abs(root) * this.scales[p];
  }

  place(x, y) {
    const row = Math.min(this.h - 1, Math.floor((y * this.h) / this.height));
    const column = Math.min(this.w - 1, Math.floor((x * this.w) / this.width));
    return row * this.w + column;
  }

  cell(x, y) {
    const row = Math.min(this.rows - 1, Math.floor((y * this.rows) / this.height));
    const column = Math.min(this.columns - 1, Math.floor((x * this.columns) / this.width));
    return row * this.columns + column;
  }

  // Share of every part in one place; they sum to 1.
  shares(i) {
    const lengths = new Float64Array(this.parts);
    for (let p = 0; p < this.parts; p++) {
      const [r, g, b] = [0, 1, 2].map((c) => this.signed(p, c, i));
      lengths[p] = Math.sqrt(r * r + g * g + b * b);
    }
    const mean = lengths.reduce((a, b) => a + b, 0) / this.parts;
    const unlike = new Float64Array(this.parts).fill(Infinity);
    for (let cell = 0; cell < this.rows * this.columns; cell++) {
      let square = 0;
      for (let c = 0; c < 3; c++) {
        const d = (this.colours[c * this.pixels + i] - this.cellColours[c * this.rows * this.columns + cell]) / 255;
        square += d * d;
      }
      const p = this.partOfCell[cell];
      if (square < unlike[p]) unlike[p] = square;
    }
    const found = lengths.map((length, p) => {
      const like = this.colourWidth > 0 ? Math.exp(-unlike[p] / (2 * this.colourWidth ** 2)) : 1;
      return Math.max(0, length - this.floor * mean) * like + 1e-6 * length;
    });
    const total = found.reduce((a, b) => a + b, 0);
    return total > 0 ? found.map((value) => value / total) : found.fill(1 / this.parts);
  }

  // Which cells a pixel depends on: a part's share spread evenly over its cells.
  cellsBehind(x, y) {
    const shares = this.shares(this.place(x, y));
    return Array.from(this.partOfCell, (p) => shares[p] / this.cellsOfPart[p]);
  }

  // Share in every place of the part to which a cell belongs.
  pixelsBehind(cell) {
    const part = this.partOfCell[cell];
    return Float64Array.from({ length: this.pixels }, (_, i) => this.shares(i)[part]);
  }

  // Length of the response to a mask of cells (numbers in [0, 1]), at every place.
  differenceMap(cells) {
    const weight = new Float64Array(this.parts);
    cells.forEach((value, cell) => (weight[this.partOfCell[cell]] += value / this.cellsOfPart[this.partOfCell[cell]]));
    const squares = new Float64Array(this.pixels);
    for (let c = 0; c < 3; c++) {
      const sum = new Float64Array(this.pixels);
      for (let p = 0; p < this.parts; p++) {
        if (weight[p] === 0) continue;
        for (let i = 0; i < this.pixels; i++) sum[i] += weight[p] * this.signed(p, c, i);
      }
      for (let i = 0; i < this.pixels; i++) squares[i] += sum[i] * sum[i];
    }
    return squares.map(Math.sqrt);
  }

  // Segment of every pixel for K segments at any size: as the library, the segment with the largest share after bilinear
  // interpolation, of equal ones the first.
  labels(k, height = this.height, width = this.width) {
    const row = this.numbers.indexOf(k) * this.regions;
    const [h, w] = this.size;
    const at = (y, x) => this.groups[row + this.superpixels[y * w + x]];
    const columns = sources(width, w);
    const labels = new Uint8Array(height * width);
    sources(height, h).forEach(([y0, y1, down], y) => {
      for (let x = 0; x < width; x++) {
        const [x0, x1, right] = columns[x];
        const four = [at(y0, x0), at(y0, x1), at(y1, x0), at(y1, x1)];
        if (four[0] === four[1] && four[0] === four[2] && four[0] === four[3]) {
          labels[y * width + x] = four[0];
          continue;
        }
        const weights = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right];
        const total = (label) => four.reduce((sum, one, n) => sum + (one === label ? weights[n] : 0), 0);
        labels[y * width + x] = four.reduce((best, one) => {
          const more = total(one) - total(best);
          return more > 1e-9 || (Math.abs(more) <= 1e-9 && one < best) ? one : best;
        });
      }
    });
    return labels;
  }

  // Share of every cell that lies in one segment.
  cellsOfSegment(labels, segment) {
    const inside = new Float64Array(this.rows * this.columns);
    const all = new Float64Array(this.rows * this.columns);
    for (let y = 0, i = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++, i++) {
        const cell = this.cell(x, y);
        all[cell] += 1;
        if (labels[i] === segment) inside[cell] += 1;
      }
    }
    return Array.from(inside, (count, cell) => count / Math.max(1, all[cell]));
  }
}

// For each of `size` pixels the two of `from` pixels that it lies between, and how far it is from the first.
function sources(size, from) {
  return Array.from({ length: size }, (_, i) => {
    const at = Math.max(0, ((i + 0.5) * from) / size - 0.5);
    const first = Math.min(from - 1, Math.floor(at));
    return [first, Math.min(from - 1, first + 1), at - first];
  });
}

// -- files --------------------------------------------------------------------------------------------------------------

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(kind, content) {
  const bytes = new Uint8Array(content.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(content, 8);
  const sum = bytes.subarray(4, -4).reduce((crc, byte) => CRC[(crc ^ byte) & 255] ^ (crc >>> 8), -1);
  view.setUint32(content.length + 8, ~sum >>> 0);
  return bytes;
}

// A PNG of one byte a pixel, grey or with a palette, which a canvas cannot write.
async function png(width, height, pixels, palette = null) {
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, palette ? 3 : 0], 8);
  const lines = new Uint8Array(height * (width + 1)); // each begins with its filter, none
  for (let y = 0; y < height; y++) lines.set(pixels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = new Uint8Array(await through(lines, new CompressionStream("deflate")));
  const colours = palette ? [chunk("PLTE", palette)] : [];
  const signature = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
  const parts = [signature, chunk("IHDR", header), ...colours, chunk("IDAT", packed), chunk("IEND", [])];
  return new Blob(parts, { type: "image/png" });
}

// COCO's compressed run lengths of one segment, down the columns.
function runLengths(labels, width, height, segment) {
  const runs = [];
  let [inside, run] = [false, 0];
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if ((labels[y * width + x] === segment) !== inside) {
        runs.push(run);
        [inside, run] = [!inside, 0];
      }
      run += 1;
    }
  }
  runs.push(run);
  return runs.map((count, n) => {
    let [rest, text, more] = [n > 2 ? count - runs[n - 2] : count, "", true];
    while (more) { // five bits at a time, the lowest first, and a sixth that says whether more follow
      const five = rest & 31;
      rest >>= 5;
      more = five & 16 ? rest !== -1 : rest !== 0;
      text += String.fromCharCode((more ? five | 32 : five) + 48);
    }
    return text;
  }).join("");
}

function coco(labels, width, height, name) {
  const boxes = new Map(); // segment → [left, top, right, bottom, area]
  labels.forEach((segment, i) => {
    const [x, y] = [i % width, Math.floor(i / width)];
    const box = boxes.get(segment);
    if (!box) return boxes.set(segment, [x, y, x, y, 1]);
    [box[0], box[2], box[3], box[4]] = [Math.min(box[0], x), Math.max(box[2], x), y, box[4] + 1];
  });
  const segments = [...boxes].sort(([a], [b]) => a - b);
  return {
    images: [{ id: 1, file_name: name, height, width }],
    categories: segments.map(([n]) => ({ id: n + 1, name: `segment ${n}`, supercategory: "segment", isthing: 0 })),
    annotations: segments.map(([n, [left, top, right, bottom, area]]) => ({
      id: n + 1, image_id: 1, category_id: n + 1, bbox: [left, top, right - left + 1, bottom - top + 1], area, iscrowd: 0,
      segmentation: { size: [height, width], counts: runLengths(labels, width, height, n) },
    })),
  };
}
