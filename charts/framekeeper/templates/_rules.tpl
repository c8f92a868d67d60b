{{/*
What the operator may do, each with the reason. An operator can give a recorder only what it has itself, so it has everything that recorders have.
charts/check fails where a rule has no reason.
*/}}

{{/* In the namespaces that are looked after. */}}
{{- define "framekeeper.rules.namespaced" -}}
# Reads what people asked for. It never changes or deletes it.
- apiGroups: [framekeeper.dev]
  resources: [camerastreams, storagepools]
  verbs: [get, list, watch]
# Says what has become of it.
- apiGroups: [framekeeper.dev]
  resources: [camerastreams/status, storagepools/status]
  verbs: [get, patch, update]
# One for each recorder: what it is to do. Deleted when a pool has fewer recorders, or is gone.
- apiGroups: [framekeeper.dev]
  resources: [recorders]
  verbs: [get, list, watch, create, patch, update, delete]
# Recorders write their own status and are given this right by the operator. It writes there itself what a recorder that is gone cannot say any more.
- apiGroups: [framekeeper.dev]
  resources: [recorders/status]
  verbs: [get, patch, update]
# Owner references that keep the owner until what it owns is gone (blockOwnerDeletion): clusters with OwnerReferencesPermissionEnforcement ask for this.
- apiGroups: [framekeeper.dev]
  resources: [storagepools/finalizers, recorders/finalizers]
  verbs: [update]
# One for each recorder: its pod.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# For each pool a headless Service. For each recorder a ServiceAccount, a Secret with the credentials of its own cameras, and the claims of its volumes.
# Secrets are read because people write cameras' credentials into Secrets of their own.
- apiGroups: [""]
  resources: [services, serviceaccounts, secrets, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# Its StatefulSets replace no pod by themselves: it deletes recorders' pods one at a time, each when the one before records again.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# For each recorder a Role by name for its own Recorder, Secret and Lease, so that none can read or write another's.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
# For each recorder a Lease, which it renews as a kubelet does. The operators elect their leader by one, too.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, patch, update, delete]
# For each pool one, so that draining nodes never takes more recorders than may fail.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Tells people what happened. Both groups: the old one is what kubectl describe shows everywhere.
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* Of what has no namespace. */}}
{{- define "framekeeper.rules.cluster" -}}
# Which recorders fail together, and whether a node was deleted, so that its recorder is lost and not only away.
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
# Whether a claim can be expanded, and whether a volume is bound to its node.
- apiGroups: [storage.k8s.io]
  resources: [storageclasses]
  verbs: [get, list, watch]
# To which node a volume is bound: a recorder can only ever run there.
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get, list, watch]
{{- end -}}

{{/* In the release's own namespace, where that is none of those that are looked after. */}}
{{- define "framekeeper.rules.own" -}}
# Makes the Lease by which operators elect their leader. Names cannot restrict what is created.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# Takes it, renews it and sees who holds it; this one only.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "framekeeper.fullname" . }}]
  verbs: [get, list, watch, patch, update]
# helm test lists these in this namespace, to see that the API server serves them.
- apiGroups: [framekeeper.dev]
  resources: [camerastreams, storagepools, recorders]
  verbs: [list]
{{- end -}}
