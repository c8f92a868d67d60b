{{/*
Name of what is made in the release's namespace: framekeeper, or RELEASE-framekeeper. The Lease has it, too, so 63 characters are the most. It is never just a number,
as names of releases, namespaces and accounts may be: those are quoted, or YAML takes 123 and "no" for something else.
*/}}
{{- define "framekeeper.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of what has no namespace, so that two releases in two namespaces do not meet. */}}
{{- define "framekeeper.clustername" -}}
{{- printf "%s-%s" .Release.Namespace (include "framekeeper.fullname" .) -}}
{{- end -}}

{{- define "framekeeper.selector" -}}
app.kubernetes.io/name: framekeeper
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "framekeeper.labels" -}}
{{ include "framekeeper.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "framekeeper.serviceaccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "framekeeper.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | required "serviceAccount.name: must name the ServiceAccount to be used, because serviceAccount.create is false" -}}
{{- end -}}
{{- end -}}

{{/* What a pod runs: by digest where there is one. Context: an image's values and the chart's version. */}}
{{- define "framekeeper.reference" -}}
{{- if or (contains "@" .image.repository) (regexMatch ":[^/]*$" .image.repository) -}}
{{- fail (printf "image.repository: must not hold a tag or a digest (%s); put them into image.tag and image.digest" .image.repository) -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .version) -}}
{{- end -}}
{{- end -}}

{{- define "framekeeper.image" -}}
{{- $_ := required "image.repository: must say where the image is, for example registry.example/framekeeper (docs/install.md)" .Values.image.repository -}}
{{- include "framekeeper.reference" (dict "image" .Values.image "version" .Chart.AppVersion) -}}
{{- end -}}

{{/* The recorders' image: the operator's, or as far as it says something else. A tag of its own does not go with the operator's digest. */}}
{{- define "framekeeper.recorderimage" -}}
{{- $own := .Values.recorder.image -}}
{{- if or $own.repository $own.tag $own.digest -}}
{{- $image := dict "repository" ($own.repository | default .Values.image.repository) "tag" $own.tag "digest" $own.digest -}}
{{- include "framekeeper.reference" (dict "image" $image "version" .Chart.AppVersion) -}}
{{- else -}}
{{- include "framekeeper.image" . -}}
{{- end -}}
{{- end -}}

{{/* The restricted Pod Security level, and nothing that can be written to. */}}
{{- define "framekeeper.podsecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "framekeeper.containersecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The labels that the operator gives every recorder's pod; operator and chart must agree on them. */}}
{{- define "framekeeper.recorderselector" -}}
app.kubernetes.io/name: framekeeper
app.kubernetes.io/component: recorder
{{- end -}}
