{{- /* What several objects have to agree on about the agent. */ -}}

{{- /* Where metrics and health are answered. */ -}}
{{- define "oarlock.metricsAddress" -}}
{{- if .Values.metrics.address -}}
{{- .Values.metrics.address -}}
{{- else if and .Values.execEvents (not .Values.podMonitor.enabled) -}}
127.0.0.1
{{- else -}}
0.0.0.0
{{- end -}}
{{- end -}}

{{- /* The agent's config.yaml. */ -}}
{{- define "oarlock.config" -}}
{{- $address := include "oarlock.metricsAddress" . -}}
{{- $host := ternary (printf "[%s]" $address) $address (contains ":" $address) -}}
{{- $config := set (deepCopy .Values.config) "metricsAddress" (printf "%s:%v" $host .Values.metrics.port) -}}
{{- if .Values.retire -}}
{{- $_ := set $config.nri "enabled" false -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* How kubelet asks: at the pod's address, but where the agent listens at one address alone, there. */ -}}
{{- define "oarlock.probe" -}}
{{- $address := include "oarlock.metricsAddress" . -}}
{{- if not (has $address (list "0.0.0.0" "::")) -}}
host: {{ $address | quote }}
{{ end -}}
port: metrics
{{- end -}}
