// What a component that shows work goes by: once the work has been cancelled, word of its progress that was on its way
// does not count. Gradio answers the cancelling while it still stops the work. The page itself says `queued` at a start.
export function withoutLateWord() {
  let cancelled = null;
  return value => {
    if (value.status === 'queued') cancelled = null;
    if (value.status === 'cancelled') cancelled = value;
    return cancelled && value.status === 'working' ? cancelled : value;
  };
}
