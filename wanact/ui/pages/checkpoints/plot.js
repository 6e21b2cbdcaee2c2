// A small plot as an SVG: lines over x, guides, and what is under the pointer told in words.
//   lines: [{name, points: [[x, y]], className}], null breaks a line; levels: [y]; diagonal: true for y = x.
//   tell(text | null, event) is called as the pointer moves; words(x, [[name, y]]) says what is there.
const WIDTH = 220;
const HEIGHT = 110;

export function svgNode(tag, attributes, parent) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

// What the lines have at the x that is nearest to the one asked for.
export function nearest(lines, x) {
  const all = [...new Set(lines.flatMap(line => line.points.filter(([, y]) => y !== null).map(([at]) => at)))];
  if (!all.length) return null;
  const at = all.reduce((best, one) => (Math.abs(one - x) < Math.abs(best - x) ? one : best));
  const values = lines
    .map(line => [line.name, line.points.find(([one]) => one === at)?.[1] ?? null])
    .filter(([, y]) => y !== null);
  return {at, values};
}

export function makePlot({label, lines, range, levels = [], diagonal = false, here = null, words, tell}) {
  const [[x0, x1], [y0, y1]] = range;
  const px = x => ((x - x0) / (x1 - x0 || 1)) * (WIDTH - 12) + 6;
  const py = y => HEIGHT - 6 - ((Math.max(y0, Math.min(y1, y)) - y0) / (y1 - y0 || 1)) * (HEIGHT - 12);
  const svg = svgNode('svg', {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: 'plot', role: 'img', 'aria-label': label});
  for (const level of levels) svgNode('line', {x1: 0, x2: WIDTH, y1: py(level), y2: py(level), class: 'level'}, svg);
  if (diagonal) {
    const end = Math.min(x1, y1);
    svgNode('line', {x1: px(0), y1: py(0), x2: px(end), y2: py(end), class: 'exact'}, svg);
  }
  if (here !== null) svgNode('line', {x1: px(here), x2: px(here), y1: 0, y2: HEIGHT, class: 'here'}, svg);
  for (const {points, className} of lines) {
    let path = '';
    let pen = 'M';
    for (const [x, y] of points) {
      if (y === null) pen = 'M';
      else {
        path += `${pen}${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
        pen = 'L';
      }
    }
    if (path) svgNode('path', {d: path, class: `line ${className}`}, svg);
    if (points.length < 40)
      for (const [x, y] of points)
        if (y !== null) svgNode('circle', {cx: px(x), cy: py(y), r: 2.6, class: `dot ${className}`}, svg);
  }
  const now = svgNode('line', {y1: 0, y2: HEIGHT, class: 'now', visibility: 'hidden'}, svg);
  const look = event => {
    const box = svg.getBoundingClientRect();
    const x = x0 + ((((event.clientX - box.left) / box.width) * WIDTH - 6) / (WIDTH - 12)) * (x1 - x0);
    const found = nearest(lines, x);
    if (!found) return;
    for (const name of ['x1', 'x2']) now.setAttribute(name, px(found.at));
    now.setAttribute('visibility', 'visible');
    tell(words(found.at, found.values), event);
  };
  svg.addEventListener('pointermove', look);
  svg.addEventListener('pointerdown', look);
  svg.addEventListener('pointerleave', () => {
    now.setAttribute('visibility', 'hidden');
    tell(null);
  });
  return svg;
}
