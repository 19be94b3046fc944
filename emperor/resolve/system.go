package resolve

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// etcNames is what every vassal sees of the host's /etc, read-only: one table
// (CONTRACT 4). A name may hold wildcards.
var etcNames = []string{
	"alternatives", "ssl", "pki", "ca-certificates", "ca-certificates.conf",
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d",
	"nsswitch.conf", "host.conf", "gai.conf", "services", "protocols",
	"localtime", "timezone", "os-release", "mime.types", "magic", "locale.alias", "default/locale", "fonts",
	"perl", "python*", "ruby*", "lua*", "java-*", "php", "ImageMagick-*", "odbc*",
}

// etcMasked is what of it stays hidden: keys, and other tenants' pools.
var etcMasked = []string{"/etc/ssl/private", "/etc/pki/tls/private", "/etc/php/*/fpm/pool.d"}

// system lists what every vassal sees: /usr with its links, part of /etc.
func (r *resolver) system() {
	if r.tree != nil { // it has its own
		r.res.Masked = append(r.res.Masked, "/etc/ssl/private", "/etc/pki/tls/private")
		return
	}
	sys := OS{} // root's own directories: never asked of a tenant's child
	r.res.System = append(r.res.System, Bind{Source: "/usr", Target: "/usr", Dir: true})
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		fi, err := sys.Lstat(name)
		switch {
		case err != nil:
		case fi.IsDir():
			r.res.System = append(r.res.System, Bind{Source: name, Target: name, Dir: true})
		default:
			if target, err := sys.Readlink(name); err == nil {
				r.res.Links = append(r.res.Links, Link{name, target})
			}
		}
	}
	for _, p := range sys.named("/etc", append(slices.Clone(etcNames), r.host.Etc...)) {
		r.etc(sys, p)
	}
	r.libraries(sys)
	for _, m := range etcMasked {
		r.res.Masked = append(r.res.Masked, sys.glob(m)...)
	}
}

// etc shows one name of /etc: a link whose target is visible stays a link.
func (r *resolver) etc(sys OS, p string) {
	if !within(p, "/etc") || p == "/etc" {
		return
	}
	w, err := walk(sys, p)
	if err != nil || w.tenant {
		return
	}
	if len(w.links) == 1 && w.links[0].Path == p && within(w.path, "/usr") {
		r.res.Links = append(r.res.Links, w.links[0])
		return
	}
	st := Bind{Source: w.path, Target: p, Dir: w.info.IsDir(), Device: w.dev, Inode: w.ino}
	if !st.Dir && !w.info.Mode().IsRegular() {
		return
	}
	r.res.System = append(r.res.System, st)
}

// etcFiles makes the files that are the vassal's own.
func (r *resolver) etcFiles() {
	res := r.res
	host := r.hostname()
	name := res.User
	if name == "" {
		name = "app"
	}
	home := res.Home
	if home == "" || !r.shows(home) {
		home = "/"
		if res.Dir != "" {
			home = res.Dir
		}
	}
	passwd := ""
	if root := "root:x:0:0:root:/:/usr/sbin/nologin\n"; res.Maps != nil && res.Maps.User == 0 {
		passwd = fmt.Sprintf("root:x:0:0:root:%s:/bin/sh\n", home)
	} else if passwd = root; res.UID != 0 {
		passwd += fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", name, res.UID, res.GID, home)
	}
	if res.UID != 65534 {
		passwd += "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
	}
	group := "root:x:0:\n"
	seen := map[int]bool{0: true}
	groups := append([]Group{{res.GID, res.Group}}, res.Groups...)
	if res.Maps != nil && res.Maps.Group == 0 {
		groups = res.Groups
	}
	for _, g := range groups {
		if seen[g.GID] {
			continue
		}
		seen[g.GID] = true
		if g.Name == "" {
			g.Name = fmt.Sprintf("g%d", g.GID)
		}
		members := ""
		if g.GID != res.GID {
			members = name
		}
		group += fmt.Sprintf("%s:x:%d:%s\n", g.Name, g.GID, members)
	}
	if !seen[65534] {
		group += "nogroup:x:65534:\n"
	}
	res.Files = append(res.Files,
		File{"/etc/passwd", passwd, 0o644},
		File{"/etc/group", group, 0o644},
		File{"/etc/hosts", fmt.Sprintf("127.0.0.1\tlocalhost %[1]s\n::1\tlocalhost ip6-localhost %[1]s\n", host), 0o644},
		File{"/etc/hostname", host + "\n", 0o644},
		File{"/etc/machine-id", machineID(host) + "\n", 0o444},
		File{"/etc/resolv.conf", r.resolvConf(), 0o644},
		File{"/etc/mailname", r.res.Mail.HostName + "\n", 0o644},
	)
}

func (r *resolver) hostname() string {
	if r.cfg.Jail.Hostname != "" {
		return r.cfg.Jail.Hostname
	}
	return r.cfg.Name.Hostname()
}

// resolvConf is the host's under net = host, and what nat makes of it; else
// there is nobody to ask.
func (r *resolver) resolvConf() string {
	if r.cfg.Jail.Resolv != "" {
		return r.resolvLine()
	}
	if r.res.NAT != nil {
		return r.res.NAT.resolvConf
	}
	if r.res.Net != "host" {
		return "# net = " + r.res.Net + ": no name server can be reached\n"
	}
	b, err := OS{}.ReadFile("/etc/resolv.conf")
	if err != nil {
		return ""
	}
	return string(b)
}

// machineID is a stable id of this vassal's own, derived from the host's so
// that neither tells the other (machine-id(5)).
func machineID(name string) string {
	host, _ := OS{}.ReadFile("/etc/machine-id")
	sum := sha256.Sum256(append([]byte("liege vassal "+name+"\n"), host...))
	return hex.EncodeToString(sum[:16])
}

// shows reports whether p is visible inside.
func (r *resolver) shows(p string) bool {
	return r.visible(p) || slices.ContainsFunc(r.res.Binds, func(b Bind) bool { return within(p, b.Target) })
}

// named is glob for many names in dir, which is read once for all of them: it was
// read for each that has wildcards, at every start.
func (o OS) named(dir string, names []string) (found []string) {
	entries, _ := os.ReadDir(dir) // what cannot be read has nothing to show
	for _, name := range names {
		if name = path.Clean(name); strings.Contains(name, "/") || !wild(name) {
			found = append(found, o.glob(path.Join(dir, name))...)
			continue
		}
		for _, e := range entries {
			if ok, _ := path.Match(name, e.Name()); ok {
				found = append(found, path.Join(dir, e.Name()))
			}
		}
	}
	return found
}

func wild(pattern string) bool { return strings.ContainsAny(pattern, "*?[") }

// glob expands a pattern of the tables above.
func (OS) glob(pattern string) []string {
	if !wild(pattern) {
		if _, err := (OS{}).Lstat(pattern); err != nil {
			return nil
		}
		return []string{pattern}
	}
	found, _ := filepath.Glob(pattern) // the patterns are ours: never ErrBadPattern
	return found
}
