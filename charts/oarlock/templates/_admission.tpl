{{- /*
The refusals of the admission policy. Each is made of

  key     the annotation, without its prefix
  values  the policy's variable that lists its values, one for each pod template that has the annotation
  bad     CEL over v, a value: whether it is refused
  what    CEL over v: what is wrong with it, as text
  rule    the rule that it breaks

and says what the planner says: oarlock.dev/KEY "VALUE": WHAT (rule: RULE). CEL has no words for a name of an expression:
[expression].map(name, ...)[0] is how one is given.
*/ -}}

{{- define "oarlock.refusal" -}}
{{- $rule := .rule | replace "'" "\\'" -}}
- expression: >-
    !variables.{{ .values }}.exists(v, {{ .bad }})
  messageExpression: >-
    variables.{{ .values }}.filter(v, {{ .bad }}).map(v, 'oarlock.dev/{{ .key }} "' + {{ include "oarlock.shortened" (list "v" 120) }} +
    '": ' + {{ .what }} + ' (rule: {{ $rule }})')[0]
  message: {{ printf "oarlock.dev/%s is refused (rule: %s)" .key .rule | quote }}
{{- end -}}

{{- /* CEL: a text cut to what a person reads. */ -}}
{{- define "oarlock.shortened" -}}
{{- $text := index . 0 -}}{{- $most := index . 1 -}}
(size({{ $text }}) > {{ $most }} ? {{ $text }}.substring(0, {{ $most }}) + '…' : {{ $text }})
{{- end -}}

{{- /* CEL over v: the entries of a list, by its separator. A CPU list begins with cpus: */ -}}
{{- define "oarlock.entries" -}}
{{- if eq . "cpus" -}}
v.substring(5).split(';').map(e, e.trim())
{{- else -}}
v.split('{{ . }}').map(e, e.trim())
{{- end -}}
{{- end -}}

{{- /*
A refusal of one entry of a list. Further:

  list       what entries are separated by, or cpus
  when       CEL over v: whether it is such a list
  badEntry   CEL over e, an entry
  whatEntry  CEL over e: what is wrong with it
*/ -}}
{{- define "oarlock.refusalOfEntry" -}}
{{- $entries := include "oarlock.entries" .list -}}
{{- $bad := printf "%s && %s.exists(e, %s)" .when $entries .badEntry -}}
{{- $where := printf "[%s.map(e, %s).indexOf(true)].map(i, 'entry ' + string(i + 1) + ' (rank ' + string(i) + ')')[0]" $entries .badEntry -}}
{{- $what := printf "%s + %s.filter(e, %s).map(e, %s)[0]" $where $entries .badEntry .whatEntry -}}
{{- include "oarlock.refusal" (merge (dict "bad" $bad "what" $what) .) -}}
{{- end -}}

{{- /* CEL over e: what an entry's refusal begins with. */ -}}
{{- define "oarlock.quoted" -}}
' "' + {{ include "oarlock.shortened" (list "e" 60) }} + '": '
{{- end -}}

{{- /* The refusals that all lists have in common. */ -}}
{{- define "oarlock.refusalsOfList" -}}
{{- $separator := ternary ";" .list (eq .list "cpus") -}}
{{- $rule := printf "one entry per local rank, separated by %q" $separator -}}
{{- $entries := include "oarlock.entries" .list -}}
{{ include "oarlock.refusalOfEntry" (merge (dict "badEntry" "e == ''" "whatEntry" "' is empty'" "rule" $rule) .) }}
{{ include "oarlock.refusal" (merge (dict "bad" (printf "%s && %s.size() > 8192" .when $entries) "what" (printf "string(%s.size()) + ' entries are more than 8192 ranks'" $entries) "rule" $rule) .) }}
{{- end -}}

{{- /* The refusals of a node list. */ -}}
{{- define "oarlock.refusalsOfNodes" -}}
{{- $list := merge (dict "list" "," "when" "v.matches('^[-0-9,+;]')" "rule" "an entry is a node number, or several joined by +, like 0+1") . -}}
{{- $quoted := include "oarlock.quoted" . -}}
{{- $fits := "^0*([0-9]{1,3}|10[01][0-9]|102[0-3])$" -}}
{{ include "oarlock.refusalsOfList" (omit $list "rule") }}
{{ include "oarlock.refusalOfEntry" (merge (dict
  "badEntry" "e != '' && e.split('+').exists(p, !p.matches('^[0-9]+$'))"
  "whatEntry" (printf "%s + e.split('+').filter(p, !p.matches('^[0-9]+$')).map(p, '\"' + %s + '\" is not a node number')[0]" $quoted (include "oarlock.shortened" (list "p" 60)))
) $list) }}
{{ include "oarlock.refusalOfEntry" (merge (dict
  "badEntry" (printf "e.split('+').exists(p, p.matches('^[0-9]+$') && !p.matches('%s'))" $fits)
  "whatEntry" (printf "%s + e.split('+').filter(p, p.matches('^[0-9]+$') && !p.matches('%s')).map(p, 'node ' + %s + ' is past the kernel\\'s highest, 1023')[0]" $quoted $fits (include "oarlock.shortened" (list "p" 60)))
) $list) }}
{{ include "oarlock.refusalOfEntry" (merge (dict
  "badEntry" "e.split('+').exists(p, e.split('+').filter(q, q == p).size() > 1)"
  "whatEntry" (printf "%s + e.split('+').filter(p, e.split('+').filter(q, q == p).size() > 1).map(p, 'node ' + %s + ' is named twice')[0]" $quoted (include "oarlock.shortened" (list "p" 60)))
) $list) }}
{{- end -}}
