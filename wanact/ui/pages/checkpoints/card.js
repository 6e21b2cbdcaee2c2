import {connect, placeOf} from '../../web/events.js';
import {gliding} from '../../web/motion.js';
import {drawFace, drawSeries} from './face.js';
import {drawPilot} from './pilot_face.js';

export function mount({element, props, trigger, watch}) {
  const {hear} = connect(element);
  const root = element.querySelector('.control');
  const find = selector => root.querySelector(selector);
  const bubble = find('.bubble');
  function tell(words, event) {
    bubble.hidden = !words;
    if (!words) return;
    const box = root.getBoundingClientRect();
    bubble.textContent = words;
    const half = bubble.offsetWidth / 2 + 6;
    bubble.style.left = `${Math.max(half, Math.min(box.width - half, event.clientX - box.left))}px`;
    bubble.style.top = `${event.clientY - box.top}px`;
  }
  root.addEventListener('pointerleave', () => tell(null));
  function show() {
    const value = props.value || {};
    const busy = typeof value.progress === 'number';
    root.dataset.status = busy ? 'measuring' : value.card ? 'card' : 'empty';
    root.dataset.quick = value.card?.quick ? 'true' : 'false';
    root.setAttribute('aria-busy', busy ? 'true' : 'false');
    root.hidden = !value.id && placeOf(element) === 'compare'; // there, a lane asks for it
    find('h2').textContent = value.is_pilot ? 'Pilot’s card' : 'Control card';
    find('.title').textContent = value.title || '';
    find('.note').textContent = value.note || (value.id ? '' : 'Select a checkpoint to see how well it obeys.');
    const bar = find('.bar');
    const share = Math.round(100 * (value.progress || 0));
    bar.hidden = !busy;
    bar.setAttribute('aria-valuenow', share);
    bar.firstElementChild.style.width = share + '%';
    const button = find('[data-do=measure]');
    button.hidden = !value.can_measure && !busy;
    button.disabled = busy;
    button.textContent = busy
      ? 'Measuring…'
      : value.card
        ? 'Quick re-measure (1–2 min, less exact)'
        : 'Quick measure (1–2 min, a rough estimate)';
    find('[data-do=full]').hidden = busy || !value.has_full;
    const face = value.pilot ? drawPilot(value.pilot) : value.card ? drawFace(value.card, tell) : [];
    find('.face').replaceChildren(...face);
    find('.series').replaceChildren(...(value.series ? drawSeries(value.series, value.step, tell) : []));
    tell(null);
  }
  find('[data-do=measure]').addEventListener('click', () => {
    props.value = {...props.value, progress: 0, note: 'Waiting for the model…'};
    show();
    trigger('measure');
  });
  find('[data-do=full]').addEventListener('click', () => {
    trigger('wanted');
  });
  // Another component of this place asks for the card of a checkpoint.
  hear('show-card', ({id}) => {
    props.value = {id, note: 'Looking for its card…'};
    show();
    trigger('wanted');
    root.scrollIntoView({block: 'nearest', behavior: gliding()});
  });
  watch('value', show);
  show();
}
