package resolve

import (
	"path"
	"path/filepath"
	"strings"

	"liege/emperor/quota"
	"liege/vassal"
	"liege/vassal/inifile"
)

// FromEmperor is the Settings that emperor.ini makes. The caller adds what
// only a running Emperor has: AutoUID, what asks SELinux, and for a tenant's file an INI
// and an FS with the owner's rights. ini reads the operator's own files.
func FromEmperor(c inifile.EmperorConfig, ini inifile.Host) Settings {
	read := c.ReadOptions()
	read.Operator = ini
	var reserved []string
	for _, dir := range []string{c.RunDir, c.StateDir, c.LogDir, "/etc/liege"} {
		reserved = append(reserved, names(dir)...)
	}
	for _, v := range c.Vassals {
		if dir := plainDir(v); dir != "" {
			reserved = append(reserved, dir)
		}
	}
	var onDemand []string
	if c.OnDemand.Key == inifile.OnDemandDirectory {
		onDemand = names(c.OnDemand.Value)
	}
	return Settings{
		Policy: c.Policy, Read: read, INI: ini, OnDemand: c.OnDemand,
		Host: Host{
			FS: OS{}, Quota: quota.Probe, Users: Files{Asked: &Asked{}}, RunDirs: RunDirs(c.RunDir), OnDemandDirs: onDemand, Reserved: reserved, Etc: c.Etc, DenyGroups: c.DenyGroups,
			DefaultUID: c.DefaultUID, SELinux: SELinux{Warn: c.SELinux == "warn", Template: c.ContextTemplate, TemplateAt: c.ContextTemplateAt}, AllowRoot: c.Ceilings.Root, MinUID: c.Ceilings.MinUID,
			Binds: c.Ceilings.Bind, Listen: c.Ceilings.Listen, Connect: c.Ceilings.Connect, Egress: c.Ceilings.Egress, Nets: c.Ceilings.Net, Mail: c.Ceilings.Mail,
		},
	}
}

// plainDir is the directory of a vassals line; empty for a pattern, whose
// directories are the tenants' own.
func plainDir(v string) string {
	if strings.HasPrefix(v, "glob://") || strings.ContainsAny(v, "*?[") {
		return ""
	}
	return canonRun(path.Clean(strings.TrimPrefix(v, "dir://")))
}

// RunDirs are the names of the run directory dir, as addresses have them.
func RunDirs(dir string) []string { return names(dir) }

// runDirs are the names of the run directory; the first is the one to show.
func (h *Host) runDirs() []string {
	if len(h.RunDirs) == 0 {
		return []string{vassal.RunDir}
	}
	return h.RunDirs
}

// names are those of Liege's directory dir: as it is called, and where that leads.
func names(dir string) []string {
	dir = canonRun(path.Clean(dir))
	if real, err := filepath.EvalSymlinks(dir); err == nil && real != dir {
		return []string{dir, real}
	}
	return []string{dir}
}
