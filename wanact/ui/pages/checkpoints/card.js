import {connect, placeOf} from '../../web/events.js';
import {gliding} from '../../web/motion.js';

export function mount({element, props, trigger, watch}) {
  const {hear} = connect(element);
  const root = element.querySelector('.control');
  const find = selector => root.querySelector(selector);
  function show() {
    const value = props.value || {};
    const busy = typeof value.progress === 'number';
    root.dataset.status = busy ? 'measuring' : value.picture || value.numbers ? 'card' : 'empty';
    root.setAttribute('aria-busy', busy ? 'true' : 'false');
    root.hidden = !value.id && placeOf(element) === 'compare'; // there, a lane asks for it
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
      : value.numbers
        ? 'Quick re-measure (1–2 min, less exact)'
        : 'Quick measure (1–2 min, a rough estimate)';
    for (const [name, url, what] of [
      ['.picture', value.picture, 'Control card of'],
      ['.curve', value.curves, 'Control over the steps of the run of'],
    ]) {
      const image = find(name);
      image.hidden = !url;
      if (url) {
        image.src = url;
        image.alt = `${what} ${value.title}`;
      } else image.removeAttribute('src');
    }
    find('.numbers').replaceChildren(
      ...(value.numbers || []).map(([name, number]) => {
        const box = document.createElement('div');
        const term = document.createElement('dt');
        const figure = document.createElement('dd');
        term.textContent = name;
        figure.textContent = number;
        box.append(term, figure);
        return box;
      }),
    );
  }
  find('[data-do=measure]').addEventListener('click', () => {
    props.value = {...props.value, progress: 0, note: 'Waiting for the model…'};
    show();
    trigger('measure');
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
