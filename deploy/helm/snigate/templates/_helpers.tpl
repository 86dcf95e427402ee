{{/* The name of what the release makes: that of the release, behind which `-snigate` shows what it is. */}}
{{- define "snigate.name" -}}
{{- if contains "snigate" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-snigate" (.Release.Name | trunc 44 | trimSuffix "-") }}
{{- end }}
{{- end }}

{{- define "snigate.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Snigate gives the Services of Gateways this selector, so it must not depend on the release. */}}
{{- define "snigate.selector" -}}
app.kubernetes.io/component: data-plane
app.kubernetes.io/name: snigate
{{- end }}

{{/* The key `kubernetes` of the routing file. */}}
{{- define "snigate.kubernetes" -}}
{{- $given := .Values.kubernetes | default dict }}
{{- if eq .Values.kind "DaemonSet" }}{{ $given = merge (dict "addresses" "bind") $given }}{{ end }}
{{- toYaml $given }}
{{- end }}
