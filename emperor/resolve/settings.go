package resolve

import (
	"path"
	"strings"

	"liege/emperor/quota"
	"liege/vassal/inifile"
)

// FromEmperor is the Settings that emperor.ini makes. The caller adds what
// only a running Emperor has: AutoUID, what asks SELinux, and for a tenant's file an INI
// and an FS with the owner's rights. ini reads the operator's own files.
func FromEmperor(c inifile.EmperorConfig, ini inifile.Host) Settings {
	read := c.ReadOptions()
	read.Operator = ini
	reserved := []string{c.RunDir, c.StateDir, c.LogDir, "/etc/liege"}
	for _, v := range c.Vassals {
		if dir := plainDir(v); dir != "" {
			reserved = append(reserved, dir)
		}
	}
	return Settings{
		Policy: c.Policy, Read: read, INI: ini, OnDemand: c.OnDemand,
		Host: Host{
			FS: OS{}, Quota: quota.Probe, Users: Files{Asked: &Asked{}}, Reserved: reserved, Etc: c.Etc, DenyGroups: c.DenyGroups,
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
