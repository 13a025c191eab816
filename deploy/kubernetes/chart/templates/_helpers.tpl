{{- define "labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: resnet
{{- end }}

{{- define "balancer-labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: resnet-balancer
{{- end }}

{{- define "image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /* Numbers of a values file are floats: 134217728, not 1.34217728e+08, which is no whole number to the service. */}}
{{- define "plain" -}}
{{ if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "names" -}}
- ports:  # names
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end }}

{{- define "behaviour" -}}
behavior:
  scaleUp:
    policies:  # then wait until the new pods count: they start, and the rate is that of a minute
      - type: Percent
        value: 100
        periodSeconds: 60
  scaleDown:
    stabilizationWindowSeconds: 300
    policies:  # one at a time: a short wait does not say how many pods are too many
      - type: Pods
        value: 1
        periodSeconds: 120
{{- end }}
