// tone says in a word how a pod fares; the style gives it a colour and a mark.
export function tone(pod) {
  if (pod.healthy) return pod.phase === 'Succeeded' ? 'done' : 'good';
  if (pod.phase === 'Failed' || /BackOff|Err|OOMKilled|Invalid|ExitCode|Signal/.test(pod.reason)) return 'bad';
  return 'wait';
}
