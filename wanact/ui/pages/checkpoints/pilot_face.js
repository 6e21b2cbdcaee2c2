import {build} from './face.js';

// A pilot's card: how often it does what it is asked, beside the pilot written by hand and one by chance, and a film of
// its best flight.
const WHERE = {sim: 'In the simulator', world: 'Inside the world model'};
const TRUTH = {
  sim: worlds => `${worlds} worlds that it was not trained in; the simulator says what was done.`,
  world: () => 'Nobody knows the truth there: the inverse dynamics model reads the way from the pictures.',
};
const WHO = {trained: 'this pilot', hand_written: 'written by hand', random: 'by chance'};
const TASKS = {gates: 'Gates', course: 'Hold a course', circle: 'Circle a landmark', avoid: 'Do not crash'};

const VIEWS = {
  sim: 'Its best flight, as the simulator draws it; the rings are what it flies to. Twice as fast as flown.',
  world:
    'Its best flight, as the world model draws it; the rings are where the reading of its way says that they hang. Twice as fast as flown.',
};

// It is told numbers and sees none of this.
function filmOf(where, url) {
  const video = Object.assign(document.createElement('video'), {
    src: url,
    controls: true,
    loop: true,
    muted: true,
    playsInline: true,
  });
  video.setAttribute('aria-label', VIEWS[where]);
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) video.autoplay = true;
  return build('figure', 'film', video, build('figcaption', '', VIEWS[where]));
}

const percent = share => `${Math.round(100 * share)}%`;
export const judged = share => (share >= 0.8 ? 'good' : share >= 0.4 ? 'fair' : 'poor');

function rowsOf(task, pilots) {
  return Object.keys(WHO)
    .filter(name => pilots[name])
    .map((name, i) => {
      const one = pilots[name];
      const bar = build('span', `share ${judged(one.success)}`, build('i', ''));
      bar.firstElementChild.style.width = percent(one.success);
      const row = build(
        'tr',
        name === 'trained' ? 'own' : '',
        Object.assign(build('th', '', i ? '' : TASKS[task] || task), {scope: 'row'}),
        build('td', 'who', WHO[name]),
        build('td', '', build('span', 'with-bar', bar, build('b', '', percent(one.success)))),
        build('td', '', `${percent(one.interval[0])} to ${percent(one.interval[1])}`),
        build('td', '', one.return.toFixed(1)),
        build('td', '', Math.round(one.length).toLocaleString('en')),
      );
      return row;
    });
}

export function drawPilot(measured) {
  const head = build('tr', '');
  for (const words of ['Task', 'Pilot', 'Done', '19 times of 20', 'Return', 'Latent frames'])
    head.append(Object.assign(build('th', '', words), {scope: 'col'}));
  const panels = measured.map(one =>
    build(
      'section',
      'panel',
      build(
        'h3',
        '',
        `${WHERE[one.where]}: ${one.episodes} episodes${Object.keys(one.tasks).length > 1 ? ' of each task' : ''}`,
      ),
      build('p', 'remark', TRUTH[one.where](one.worlds)),
      build(
        'div',
        'scroll',
        build(
          'table',
          'tasks',
          build('thead', '', head.cloneNode(true)),
          build('tbody', '', ...Object.entries(one.tasks).flatMap(([task, pilots]) => rowsOf(task, pilots))),
        ),
      ),
      ...(one.film ? [filmOf(one.where, one.film)] : []),
    ),
  );
  return [build('div', `panels${panels.length > 1 ? '' : ' single'}`, ...panels)];
}
