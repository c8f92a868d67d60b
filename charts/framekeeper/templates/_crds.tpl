{{/*
What is done with one definition: create, update, keep (it is rendered nowhere) or plain.

Helm restores, on a rollback, whatever the older revision's manifest holds, and never asks a template again. So definitions stand in no manifest: they are hooks of
install and upgrade. Helm applies hooks, never deletes one that is a CustomResourceDefinition, and runs none of these on rollback or uninstall. What it would do
is to bring back older ones with an older chart, so each definition says in annotations which version it is of, and the template looks at those in the cluster first.

  in the cluster                      | done
  ------------------------------------|--------------------------------------------------------------------------------------------------
  none                                | create
  ours, newer or the same             | keep
  ours, older, applied by Helm ≥ 4    | update. The same version with other bytes (one under development) counts as older
  ours, older, made by another Helm   | that Helm can create such hooks and not change them: keep if it has every field, else fail and say what to type
  without our annotation              | somebody else applied it, and goes on looking after it: keep if it has every field, else fail and say so

plain: there is no cluster to look at (helm template, Argo CD). Then they are resources as any other, which are kept when the release goes.

Context: root, name, text. Writes the word; fails with a message for people.
*/}}
{{- define "framekeeper.crd.action" -}}
{{- $ours := .root.Chart.AppVersion -}}
{{- /* A namespace that every cluster has tells whether lookups are answered. */ -}}
{{- if not (lookup "v1" "Namespace" "" "default") -}}
plain
{{- else -}}
{{- $live := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" .name -}}
{{- if not $live -}}
create
{{- else -}}
{{- $annotations := $live.metadata.annotations | default dict -}}
{{- $theirs := index $annotations "framekeeper.dev/crd-version" | default "" -}}
{{- $order := 1 -}}
{{- if $theirs -}}
{{- $order = (semver $ours).Compare (semver $theirs) | int -}}
{{- end -}}
{{- $same := eq (sha256sum .text) (index $annotations "framekeeper.dev/crd-digest" | default "") -}}
{{- $changeable := false -}}
{{- range $live.metadata.managedFields -}}
{{- /* helm-controller: Flux. */ -}}
{{- if and $theirs (eq .operation "Apply") (has .manager (list "helm" "helm-controller")) -}}
{{- $changeable = semverCompare ">=4.0.0-0" $.root.Capabilities.HelmVersion.Version -}}
{{- end -}}
{{- end -}}
{{- if and $theirs (or (lt $order 0) (and (eq $order 0) $same)) -}}
keep
{{- else if $changeable -}}
update
{{- else -}}
{{- $missing := include "framekeeper.crd.lacks" (dict "ours" (.text | fromYaml).spec "theirs" $live.spec) | trimPrefix ", " -}}
{{- if $missing -}}
{{- fail (printf "the definition %s in the cluster is older than this chart and lacks %s. It was not made by this Helm, which leaves it alone. Apply those of this version first, then repeat the command:\n\n  helm template CHART --set image.repository=none --show-only templates/crds.yaml | kubectl apply --server-side --force-conflicts -f -\n\nwith the same CHART and --version as here. Cameras and pools are not touched by it." .name $missing) -}}
{{- else -}}
keep
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Which fields of our definition another one does not have: “, path, path”, or nothing. Context: ours, theirs: the specs. */}}
{{- define "framekeeper.crd.lacks" -}}
{{- $theirs := dict -}}
{{- range .theirs.versions -}}{{- $_ := set $theirs .name .schema.openAPIV3Schema -}}{{- end -}}
{{- range .ours.versions -}}
{{- if hasKey $theirs .name -}}
{{- include "framekeeper.schema.lacks" (dict "ours" .schema.openAPIV3Schema "theirs" (get $theirs .name) "path" "") -}}
{{- else -}}
, version {{ .name }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The same of a schema. What is below a field that is missing is not told as well. Context: ours, theirs, path. */}}
{{- define "framekeeper.schema.lacks" -}}
{{- $theirs := .theirs.properties | default dict -}}
{{- $path := .path -}}
{{- range $name, $schema := .ours.properties -}}
{{- if hasKey $theirs $name -}}
{{- include "framekeeper.schema.lacks" (dict "ours" $schema "theirs" (get $theirs $name) "path" (printf "%s.%s" $path $name)) -}}
{{- else -}}
, {{ printf "%s.%s" $path $name }}
{{- end -}}
{{- end -}}
{{- if and .ours.items .theirs.items -}}
{{- include "framekeeper.schema.lacks" (dict "ours" .ours.items "theirs" .theirs.items "path" (printf "%s[]" $path)) -}}
{{- end -}}
{{- end -}}

{{/* One definition with its annotations: its bytes are those of crds/ but for them. Context: root, name, text, hook. */}}
{{- define "framekeeper.crd.manifest" -}}
{{- $annotations := dict
  "framekeeper.dev/crd-version" .root.Chart.AppVersion
  "framekeeper.dev/crd-digest" (sha256sum .text)
  "helm.sh/resource-policy" "keep" -}}
{{- if .hook -}}
{{- $_ := set $annotations "helm.sh/hook" "pre-install,pre-upgrade" -}}
{{- end -}}
{{- regexReplaceAllLiteral "(?m)^metadata:$" .text (printf "metadata:\n  annotations:\n%s" (toYaml $annotations | indent 4)) -}}
{{- end -}}

{{/* What is worth knowing of the definitions in the cluster, for NOTES; they are made after this is written. Who may not read them can say crds.install=false. */}}
{{- define "framekeeper.crd.notes" -}}
{{- if not .Values.crds.install }}

Custom resource definitions are not this chart's business (crds.install is false); those of version {{ .Chart.AppVersion }} or newer must be there: kubectl apply --server-side -f crds/
{{- else -}}
{{- $root := . -}}
{{- $foreign := list -}}
{{- $newer := list -}}
{{- range $path, $_ := .Files.Glob "files/crds/*.yaml" -}}
{{- $name := printf "%s.framekeeper.dev" (base $path | trimSuffix ".yaml") -}}
{{- $live := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $name -}}
{{- if $live -}}
{{- $version := index ($live.metadata.annotations | default dict) "framekeeper.dev/crd-version" | default "" -}}
{{- if not $version -}}
{{- $foreign = append $foreign $name -}}
{{- else if lt ((semver $root.Chart.AppVersion).Compare (semver $version) | int) 0 -}}
{{- $newer = append $newer (printf "%s (%s)" $name $version) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $newer }}

Custom resource definitions in the cluster are newer than this chart, and were left as they are: {{ join ", " $newer }}.
{{- end -}}
{{- if $foreign }}

Custom resource definitions that this chart did not make were left as they are: {{ join ", " $foreign }}.
Whoever applied them applies those of the new version before each upgrade of this chart: kubectl apply --server-side -f crds/
{{- end -}}
{{- end -}}
{{- end -}}
