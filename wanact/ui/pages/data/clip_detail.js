import {build} from '../../web/build.js';
import {channelLamps} from '../../web/channels.js';
import {maskLayer} from '../../web/masks.js';
import {wantsStillness} from '../../web/motion.js';
import {svgNode} from '../checkpoints/plot.js';

// One clip in full: its frames, what is held, its path from above and its actions, all under one clock, with what the
// optical flow reads of the same flight beside.
const AXES = [
  ['Forward', 'move'],
  ['Right', 'move'],
  ['Turn right', 'look'],
  ['Look up', 'look'],
];
const POSITIVE = [0, 3, 5, 6];
const NEGATIVE = [1, 2, 4, 7];
const PLAY = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M7 4l13 8-13 8z"/></svg>';
const PAUSE = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M6 4h4v16H6zM14 4h4v16h-4z"/></svg>';

export function makeClip(panel, {sheetOf, act, mayFly}) {
  let clip = null;
  let sheet = null;
  let shade = null; // what lies outside of the masks, once somebody has asked for them
  let masked = false;
  let frame = 0;
  let playing = false;
  let started = 0;
  let parts = null; // what follows the clock
  let token = 0;

  const count = () => clip?.sheet?.count || (clip?.axes ? 4 * clip.axes.length + 1 : 1);
  const latent = () => (frame < 1 ? null : Math.floor((frame - 1) / 4)); // frames 1 to 4 obey the first action

  // ---- under one clock ------------------------------------------------------------------------------------------
  function show(next) {
    frame = Math.max(0, Math.min(count() - 1, next));
    if (!parts) return;
    panel.dataset.frame = frame;
    if (sheet) {
      const {columns, width, height} = clip.sheet;
      const x = (frame % columns) * width;
      const y = Math.floor(frame / columns) * height;
      parts.context.drawImage(sheet, x, y, width, height, 0, 0, width, height);
      if (masked) shade?.(parts.context, frame, width, height);
    }
    const step = latent();
    const axes = step === null ? null : clip.axes?.[step];
    parts.lamps.forEach((lamp, channel) => {
      const up = POSITIVE.indexOf(channel);
      const value = axes ? (up >= 0 ? axes[up] : -axes[NEGATIVE.indexOf(channel)]) : 0;
      lamp.classList.toggle('on', value > 0);
    });
    parts.scrub.value = frame;
    parts.scrub.setAttribute('aria-valuetext', `frame ${frame} of ${count() - 1}`);
    parts.time.textContent = `${(frame / clip.fps).toFixed(2)} / ${((count() - 1) / clip.fps).toFixed(1)} s`;
    for (const line of parts.lines) {
      line.setAttribute('x1', frame);
      line.setAttribute('x2', frame);
    }
    parts.fly?.(frame / 4);
  }
  function play(on) {
    playing = on;
    started = performance.now() - (1000 * frame) / (clip?.fps || 16);
    if (!parts) return;
    parts.button.innerHTML = on ? PAUSE : PLAY;
    parts.button.setAttribute('aria-label', on ? 'Pause' : 'Play');
  }
  (function follow() {
    if (!panel.isConnected) return;
    if (playing && clip && panel.offsetParent) {
      const at = Math.floor(((performance.now() - started) / 1000) * clip.fps);
      if (at >= count() + clip.fps / 2) started = performance.now();
      else if (at !== frame) show(Math.min(at, count() - 1));
    }
    requestAnimationFrame(follow);
  })();

  // ---- drawing --------------------------------------------------------------------------------------------------
  function lane(number) {
    const frames = count() - 1 || 1;
    const asked = (clip.axes || []).map(row => row[number]);
    const read = (clip.read || []).map(row => row[number]);
    const all = [...asked, ...read].map(Math.abs);
    const top = Math.max(number < 2 ? 0.02 : 1, ...all);
    const py = value => 24 - (value / top) * 22;
    const svg = svgNode('svg', {
      viewBox: `0 0 ${frames} 48`,
      preserveAspectRatio: 'none',
      role: 'img',
      'aria-label': `${AXES[number][0]}: actions, and what the picture shows`,
    });
    svgNode('line', {x1: 0, x2: frames, y1: 24, y2: 24, class: 'zero'}, svg);
    let path = 'M0 24';
    asked.forEach((value, t) => {
      path += `L${4 * t} ${py(value).toFixed(1)}L${4 * t + 4} ${py(value).toFixed(1)}`;
    });
    if (asked.length) svgNode('path', {d: `${path}L${4 * asked.length} 24Z`, class: 'asked'}, svg);
    const points = read.map((value, t) => `${4 * t + 2} ${py(value).toFixed(1)}`);
    if (points.length) svgNode('path', {d: `M${points.join('L')}`, class: 'read'}, svg);
    for (const cut of clip.found_cuts || []) svgNode('line', {x1: cut, x2: cut, y1: 0, y2: 48, class: 'cut'}, svg);
    const now = svgNode('line', {x1: 0, x2: 0, y1: 0, y2: 48, class: 'now'}, svg);
    const seek = event => {
      const box = svg.getBoundingClientRect();
      play(false);
      show(Math.round(((event.clientX - box.left) / box.width) * frames));
    };
    svg.addEventListener('pointerdown', seek);
    svg.addEventListener('pointermove', event => event.buttons && seek(event));
    const [name, group] = AXES[number];
    const unit = number < 2 ? `±${+top.toPrecision(2)}` : `±${+top.toPrecision(2)}°`;
    const label = build('span', {}, name, build('small', {}, unit));
    return {node: build('div', {class: `lane ${group}`}, label, svg), now};
  }

  function above() {
    const own = clip.path || [];
    const seen = clip.read_path || [];
    const all = [...own, ...seen];
    if (!all.length) return null;
    const xs = all.map(([x]) => x);
    const ys = all.map(([, y]) => y);
    const span = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), 0.15);
    const cx = (Math.max(...xs) + Math.min(...xs)) / 2;
    const cy = (Math.max(...ys) + Math.min(...ys)) / 2;
    const at = ([x, y]) => [100 + ((x - cx) / span) * 150, 100 - ((y - cy) / span) * 150];
    const line = points =>
      `M${points
        .map(point =>
          at(point)
            .map(value => value.toFixed(1))
            .join(' '),
        )
        .join('L')}`;
    const svg = svgNode('svg', {
      viewBox: '0 0 200 200',
      role: 'img',
      'aria-label': 'The path from above: by the actions, and as the picture shows it',
    });
    if (own.length) svgNode('path', {d: line(own), class: 'plan'}, svg);
    if (seen.length) svgNode('path', {d: line(seen), class: 'seen'}, svg);
    const [sx, sy] = at(all[0]);
    svgNode('circle', {cx: sx, cy: sy, r: 5, class: 'start'}, svg);
    const drone = svgNode('g', {class: 'drone'}, svg);
    svgNode('path', {d: 'M0 0L-13 -24A27 27 0 0 1 13 -24Z', class: 'view'}, drone);
    svgNode('path', {d: 'M0 -8L6 7L0 4L-6 7Z', class: 'body'}, drone);
    const track = own.length ? own : seen;
    const fly = place => {
      const before = Math.min(track.length - 1, Math.floor(place));
      const after = Math.min(track.length - 1, before + 1);
      const share = place - Math.floor(place);
      const mixed = track[before].map((value, i) => value + share * (track[after][i] - value));
      const [x, y] = at(mixed);
      drone.setAttribute('transform', `translate(${x.toFixed(1)} ${y.toFixed(1)}) rotate(${mixed[2].toFixed(1)})`);
    };
    return {node: build('figure', {class: 'above'}, svg, build('figcaption', {}, 'From above')), fly};
  }

  function facts() {
    const words = [
      `row ${clip.number}`,
      clip.size ? `${clip.size[0]} × ${clip.size[1]}` : '',
      `${count()} frames at ${clip.fps} a second`,
      clip.axes ? `${clip.axes.length} actions` : 'no actions',
      clip.sharpness !== undefined ? `sharpness ${clip.sharpness.toFixed(2)}` : '',
      clip.brightness !== undefined ? `brightness ${Math.round(100 * clip.brightness)}%` : '',
      clip.estimated ? 'actions estimated from its pictures' : '',
      clip.fix ? `mended: ${clip.fix}` : '',
    ];
    return words.filter(Boolean).join(' · ');
  }

  function marks(mayEdit) {
    const say = build('p', {class: 'kept', role: 'status'});
    const keep = async (what, message) => {
      say.textContent = 'Keeping…';
      const answer = await act('mark', {id: clip.id, ...message});
      say.textContent = answer.problem || `${what} Kept beside the table; training reads it so.`;
      return !answer.problem;
    };
    const out = build('input', {
      type: 'checkbox',
      class: 'out',
      onchange: () => keep(out.checked ? 'Left out.' : 'Used.', {out: out.checked}),
    });
    out.checked = clip.out;
    const words = build('textarea', {'aria-label': 'Caption', maxlength: 4000, placeholder: 'No caption'});
    words.value = clip.prompt;
    const split = build('div', {class: 'row cuts'});
    const drawCuts = () =>
      split.replaceChildren(
        build(
          'button',
          {type: 'button', class: 'plain', 'data-do': 'split', onclick: () => cut(clip.begins + frame / clip.fps)},
          'Split here',
        ),
        ...(clip.found_cuts || [])
          .filter(found => !clip.cuts.some(one => Math.abs((one - clip.begins) * clip.fps - found) < 1))
          .map(found =>
            build(
              'button',
              {type: 'button', class: 'plain', onclick: () => cut(clip.begins + found / clip.fps)},
              `Split at the cut (${(found / clip.fps).toFixed(2)} s)`,
            ),
          ),
        ...clip.cuts.map(one => {
          const gone = build(
            'button',
            {type: 'button', 'aria-label': `Not at ${one} s`, onclick: () => cut(one, true)},
            '✕',
          );
          return build('span', {class: 'chip'}, `split at ${(one - clip.begins).toFixed(2)} s`, gone);
        }),
      );
    async function cut(seconds, away) {
      const cuts = away
        ? clip.cuts.filter(one => one !== seconds)
        : [...clip.cuts, +seconds.toFixed(4)].sort((a, b) => a - b);
      if (await keep(away ? 'Whole again.' : 'Split.', {cuts})) {
        clip.cuts = cuts;
        drawCuts();
      }
    }
    drawCuts();
    const save = build(
      'button',
      {type: 'button', class: 'plain', 'data-do': 'caption', onclick: () => keep('Caption:', {prompt: words.value})},
      'Keep caption',
    );
    const back = build(
      'button',
      {
        type: 'button',
        class: 'plain',
        hidden: clip.prompt === clip.own_prompt,
        onclick: () => {
          words.value = clip.own_prompt;
          keep('Caption:', {prompt: clip.own_prompt});
        },
      },
      'The table’s own',
    );
    const fields = build(
      'fieldset',
      {disabled: !mayEdit},
      build('legend', {}, 'Marks'),
      build('label', {class: 'check'}, out, 'Leave this clip out'),
      words,
      build('div', {class: 'row'}, save, back),
      split,
      say,
    );
    if (!mayEdit)
      say.textContent = 'To keep marks, open the address that the terminal printed where this page was started.';
    return fields;
  }

  // Masks are read when they are asked for first, and stay on from clip to clip.
  function masks() {
    const say = build('p', {class: 'kept', role: 'status'});
    const box = build('input', {type: 'checkbox', class: 'masks', disabled: !clip.masks.by, onchange: () => turn()});
    const by = `Dark is what ${clip.masks.by} does not look at.`;
    async function turn() {
      const own = token;
      masked = box.checked;
      if (masked && !shade) {
        say.textContent = 'Reading where it looks…';
        const answer = await act('masks', {id: clip.id});
        const layer = answer.problem ? null : await maskLayer(answer);
        if (own !== token) return;
        shade = layer;
        say.textContent = answer.problem || by;
        box.checked = masked = !answer.problem;
      } else say.textContent = masked ? by : '';
      show(frame);
    }
    box.checked = masked && !!clip.masks.by;
    say.textContent = clip.masks.problem || '';
    if (box.checked) turn();
    return build('div', {class: 'masking'}, build('label', {class: 'check'}, box, 'Masks'), say);
  }

  function draw(mayEdit) {
    const canvas = build('canvas', {role: 'img', 'aria-label': `Frames of ${clip.title}`});
    if (clip.sheet) Object.assign(canvas, {width: clip.sheet.width, height: clip.sheet.height});
    const hud = build(
      'div',
      {class: 'hud', 'aria-hidden': 'true'},
      build('div', {class: 'move'}),
      build('div', {class: 'look'}),
    );
    const stage = build('div', {class: 'stage'}, canvas, hud);
    const button = build('button', {
      type: 'button',
      'aria-label': 'Play',
      'data-do': 'play',
      onclick: () => play(!playing),
    });
    const scrub = build('input', {type: 'range', min: 0, max: count() - 1, step: 1, 'aria-label': 'Frame'});
    scrub.addEventListener('input', () => {
      play(false);
      show(+scrub.value);
    });
    const time = build('span', {});
    const lanes = clip.axes || clip.read ? AXES.map((_, number) => lane(number)) : [];
    const map = above();
    const again = build('p', {class: 'kept', role: 'status'});
    const fly = async place => {
      again.textContent = 'Taking it there…';
      const answer = await act('fly', {id: clip.id, place});
      again.textContent = answer.problem || '';
    };
    const children = [
      build('h2', {}, clip.title),
      ...(clip.problem ? [build('p', {class: 'warn', role: 'alert'}, clip.problem)] : []),
      ...(clip.sheet ? [stage] : []),
      ...(clip.sheet || clip.axes ? [build('div', {class: 'controls'}, button, scrub, time)] : []),
      ...(clip.sheet ? [masks()] : []),
      ...(lanes.length
        ? [
            build(
              'div',
              {class: 'two'},
              build('div', {class: 'lanes'}, ...lanes.map(one => one.node)),
              ...(map ? [map.node] : []),
            ),
            build(
              'p',
              {class: 'legend'},
              build('span', {}, build('i', {}), build('b', {}, 'actions')),
              build(
                'span',
                {},
                build('i', {class: 'dashed'}),
                build('b', {}, 'optical flow'),
                ' (turns in degrees; ahead and right scaled to the actions, since pictures tell no distance)',
              ),
            ),
          ]
        : []),
      build('p', {class: 'facts'}, facts()),
      marks(mayEdit),
      ...(clip.axes && mayFly
        ? [
            build(
              'div',
              {class: 'fly'},
              build(
                'div',
                {class: 'row'},
                build(
                  'button',
                  {type: 'button', class: 'plain main', 'data-do': 'plan', onclick: () => fly('fly')},
                  'Fly this in Plan a clip',
                ),
                build(
                  'button',
                  {type: 'button', class: 'plain', 'data-do': 'compare', onclick: () => fly('compare')},
                  'Compare on it',
                ),
              ),
              again,
            ),
          ]
        : []),
    ];
    panel.replaceChildren(...children);
    parts = {
      context: canvas.getContext('2d'),
      lamps: channelLamps(selector => stage.querySelector(selector)),
      button,
      scrub,
      time,
      lines: lanes.map(one => one.now),
      fly: map?.fly,
    };
    play(false);
    show(0);
  }

  return {
    nothing(words) {
      token++;
      clip = parts = sheet = shade = null;
      delete panel.dataset.clip;
      panel.replaceChildren(build('p', {class: 'nothing'}, words));
    },
    waiting(title) {
      token++;
      parts = null;
      panel.replaceChildren(
        build('h2', {}, title),
        build('p', {class: 'nothing', role: 'status'}, 'Reading the clip…'),
      );
    },
    async show(answer, mayEdit) {
      const own = ++token;
      clip = answer;
      sheet = shade = null;
      frame = 0;
      draw(mayEdit);
      panel.dataset.clip = clip.id;
      if (!clip.sheet) return;
      const image = new Image();
      image.src = sheetOf(clip);
      try {
        await image.decode();
      } catch {
        return;
      }
      if (own !== token) return;
      sheet = image;
      show(0);
      panel.dataset.ready = clip.id;
      if (!wantsStillness()) play(true);
    },
    get id() {
      return clip?.id ?? null;
    },
  };
}
