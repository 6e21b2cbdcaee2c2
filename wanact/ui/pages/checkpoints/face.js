import {makePlot} from './plot.js';

// A control card as HTML and SVG: what it shows comes from the server (wanact/control_card/face.py), every number is
// text or under the pointer, and the colours are the page's own, so that it is dark where the page is.
export const build = (name, className, ...content) => {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...content);
  return node;
};
export const percent = value => (value === null ? '–' : `${Math.round(100 * value)}%`);
export const number = (value, digits = 2) => (value === null ? '–' : value.toFixed(digits));

function panel(title, note, ...content) {
  return build('section', 'panel', build('h3', '', title), build('p', 'remark', note), ...content);
}

function headline(card) {
  return build(
    'dl',
    'headline',
    ...card.headline.map(one => {
      const box = build('div', one.judgement, build('dt', '', one.label), build('dd', '', one.text));
      if (one.label === 'control') box.lastElementChild.append(build('small', '', `of ${card.of}`));
      return box;
    }),
  );
}

function channels(card) {
  const head = build('tr', '');
  for (const words of ['Channel', 'The right way', 'Gain', 'Linearity', 'Lag', 'Apart'])
    head.append(Object.assign(build('th', '', words), {scope: 'col'}));
  const rows = card.channels.map(one => {
    const bar = build('span', `share ${one.judgement}`, build('i', ''));
    bar.firstElementChild.style.width = `${100 * (one.share ?? 0)}%`;
    return build(
      'tr',
      '',
      Object.assign(build('th', '', one.name), {scope: 'row'}),
      build('td', '', build('span', 'with-bar', bar, build('b', '', percent(one.share)))),
      build('td', '', number(one.gain)),
      build('td', '', number(one.linearity)),
      build('td', '', number(one.lag, 0)),
      build('td', '', percent(one.separation)),
    );
  });
  const table = build('table', 'channels', build('thead', '', head), build('tbody', '', ...rows));
  return panel(
    'Each channel alone',
    'Share of runs that moved the picture the right way; the line is chance. Apart: further its way than the opposite.',
    build('div', 'scroll', table),
  );
}

function crossTalk(card, tell) {
  const short = name =>
    ({forward: 'fwd', 'yaw left': 'yaw l', 'yaw right': 'yaw r', 'pitch up': 'up', 'pitch down': 'down'})[name] || name;
  const head = build('tr', '', build('td', ''));
  for (const {name} of card.channels) {
    const cell = build('th', '', short(name));
    Object.assign(cell, {scope: 'col', title: name});
    head.append(cell);
  }
  const rows = card.matrix.map((row, i) => {
    const line = build('tr', '', Object.assign(build('th', '', card.channels[i].name), {scope: 'row'}));
    row.forEach((value, j) => {
      const cell = build(
        'td',
        i === j ? 'own' : '',
        value === null ? '–' : value >= 0.05 || i === j ? value.toFixed(2) : '',
      );
      const share = Math.round(100 * Math.min(1, Math.max(0, value ?? 0)) ** 0.8);
      // Between half and nearly all, neither ink nor ground would stand out on it.
      cell.style.setProperty('--heat', `${share > 50 ? Math.max(share, 90) : share}%`);
      cell.classList.toggle('hot', share > 50);
      const words = `asked ${card.channels[i].name}, seen as ${card.channels[j].name}: ${number(value)}`;
      cell.addEventListener('pointermove', event => tell(words, event));
      cell.addEventListener('pointerdown', event => tell(words, event));
      cell.addEventListener('pointerleave', () => tell(null));
      line.append(cell);
    });
    return line;
  });
  return panel(
    'Cross-talk',
    'Asked in rows, seen in columns; 1 is its own full deflection.',
    build('div', 'scroll', build('table', 'matrix', build('thead', '', head), build('tbody', '', ...rows))),
  );
}

function doses(card, tell) {
  const flown = card.channels.some(one => one.linearity !== null);
  const most = card.doses[card.doses.length - 1] ?? 1;
  const pairs = values => card.doses.map((dose, i) => [dose, values[i] ?? null]);
  const plots = card.channels.map(one => {
    const lines = [{name: 'seen', points: pairs(one.response), className: 'own'}];
    if (one.inverse) lines.unshift({name: 'inverse dynamics', points: pairs(one.inverse), className: 'other'});
    return build(
      'figure',
      '',
      build('figcaption', '', build('b', '', one.name), one.gain === null ? 'no scale' : `gain ${number(one.gain)}`),
      makePlot({
        label: `${one.name}: answered to ${one.response.map((value, i) => `${card.doses[i]}: ${number(value)}`).join(', ')}`,
        lines,
        range: [
          [0, most],
          [-0.5, 1.6],
        ],
        levels: [0],
        diagonal: true,
        words: (x, values) =>
          `${one.name}, asked ${x}: ${values.map(([name, y]) => `${name} ${number(y)}`).join(', ')}`,
        tell,
      }),
    );
  });
  const legend = build('span', 'legend', build('i', 'own'), 'optical flow ');
  if (card.channels.some(one => one.inverse)) legend.append(build('i', 'other'), 'inverse dynamics model');
  return panel(
    'Dose response',
    `${flown ? 'Five magnitudes asked' : 'Full deflection alone was flown'}, in full deflections; dashed is exact. `,
    legend,
    build('div', 'plots', ...plots),
  );
}

function overTime(card, tell) {
  const plot = (entry, label, high, level, digits) => {
    const pairs = values => values.map((value, t) => [t, value]);
    return build(
      'figure',
      '',
      build('figcaption', '', build('b', '', label), `ends at ${number(entry.end, digits)}`),
      makePlot({
        label: `${label} over the clip, ends at ${number(entry.end, digits)}`,
        lines: [
          {name: 'at rest', points: pairs(entry.rest), className: 'rest'},
          {name: 'flown', points: pairs(entry.held), className: 'own'},
        ],
        range: [
          [0, Math.max(1, entry.held.length - 1)],
          [0, high],
        ],
        levels: [level],
        words: (x, values) => `latent frame ${x}: ${values.map(([name, y]) => `${name} ${number(y)}`).join(', ')}`,
        tell,
      }),
    );
  };
  return panel(
    'The picture over time',
    'While a channel is held, and at rest.',
    build('span', 'legend', build('i', 'own'), 'flown ', build('i', 'rest'), 'at rest'),
    build(
      'div',
      'plots two',
      plot(card.sharpness, 'sharpness, 1 is as sharp', 1.4, 1, 2),
      plot(card.colour, 'colour shift, CIELAB', 12, 2.3, 1),
    ),
    build('dl', 'rest', ...card.rest.flatMap(([name, words]) => [build('dt', '', name), build('dd', '', words)])),
  );
}

export function drawFace(card, tell) {
  return [
    headline(card),
    build(
      'p',
      'measured',
      ...(card.quick ? [build('b', 'quick', 'Quick measurement')] : []),
      card.measured.join(' · '),
    ),
    build('div', 'panels', channels(card), crossTalk(card, tell), doses(card, tell), overTime(card, tell)),
  ];
}

// The measures over the steps of a run; the step that is shown has a line.
export function drawSeries(series, step, tell) {
  const plots = series.map(one => {
    const values = one.points.map(([, y]) => y).filter(y => y !== null);
    const steps = one.points.map(([x]) => x);
    const last = values[values.length - 1] ?? null;
    const top = Math.max(one.best === 1 ? 1 : 0.2, ...values, one.best ?? 0);
    return build(
      'figure',
      '',
      build('figcaption', '', build('b', '', one.label), number(last)),
      makePlot({
        label: `${one.label} over the steps: ${one.points.map(([x, y]) => `${x}: ${number(y)}`).join(', ')}`,
        lines: [{name: one.label, points: one.points, className: 'own'}],
        range: [
          [Math.min(...steps), Math.max(1, ...steps)],
          [Math.min(0, ...values), top * 1.05],
        ],
        levels: one.best === null ? [] : [one.best],
        here: step ?? null,
        words: (x, [[, y]]) => `${x === 0 ? 'the base' : `step ${x.toLocaleString('en')}`}: ${number(y)}`,
        tell,
      }),
    );
  });
  return [
    panel(
      'Control over the steps of its run',
      'Dashed is what a faithful model has; step 0 is the base, which takes no actions.',
      build('div', 'plots many', ...plots),
    ),
  ];
}
