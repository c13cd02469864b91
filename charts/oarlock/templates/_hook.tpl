{{- /* The OCI hook's way to a host. */ -}}

{{- define "oarlock.hookInstaller" -}}
- name: hook
  image: {{ include "oarlock.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [oarlock-hook]
  args:
    - install
    - --runtime={{ .Values.hook.runtime }}
    - --root=/host
    - --copy-to={{ .Values.hook.binDir }}
    - --bin-dir={{ .Values.hook.binDir }}
    {{- if eq .Values.hook.runtime "crio" }}
    - --hooks-dir={{ .Values.hook.hooksDir }}
    - --run-dir={{ .Values.config.runDir }}
    {{- end }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    # open(2), rename(2) and symlink(2) in folders that are root's take root's id, and no capability.
    runAsUser: 0
    runAsGroup: 0
    privileged: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
    {{- with .Values.seLinuxOptions }}
    seLinuxOptions:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  volumeMounts:
    # The program, and containerd's runtime.
    - name: hook-bin
      mountPath: /host{{ .Values.hook.binDir }}
    {{- if eq .Values.hook.runtime "crio" }}
    # The files that have CRI-O call it.
    - name: hook-files
      mountPath: /host{{ .Values.hook.hooksDir }}
    {{- end }}
{{- end -}}

{{- define "oarlock.hookVolumes" -}}
- name: hook-bin
  hostPath:
    path: {{ .Values.hook.binDir }}
    type: DirectoryOrCreate
{{- if eq .Values.hook.runtime "crio" }}
- name: hook-files
  hostPath:
    path: {{ .Values.hook.hooksDir }}
    type: DirectoryOrCreate
{{- end }}
{{- end -}}
