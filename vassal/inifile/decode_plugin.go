package inifile

import (
	"cmp"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"

	"liege/vassal"
)

// plugin reads the names of a plugins line: everything that exists is built
// in, so the line only says what the file's author knew of.
func (d *decoder) plugin(o *Option, s Setting) {
	for name := range pluginWords(s.Value) {
		base := pluginName(name)
		if g := d.registered(name, s); g != nil {
			base = g.Family
		}
		if d.plugins[base] {
			continue
		}
		d.plugins[base] = true
		if knownPlugin(base) {
			continue
		}
		sev := vassal.Warning
		if o.Name == "need-plugin" {
			sev = vassal.Error
		}
		d.add(sev, vassal.CodeUnknownPlugin, s, fmt.Sprintf("no plugin %q is known here", clip(name)), "")
	}
}

// pluginWords are the names in the value of a plugins line.
func pluginWords(value string) iter.Seq[string] {
	return strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// pluginName makes "php" of 0:php, php_plugin.so and
// /usr/lib/uwsgi/plugins/php_plugin.so, and the family's name of a version:
// python311 is python3, rack_193 is rack.
func pluginName(s string) string {
	s = path.Base(s)
	if _, rest, ok := strings.Cut(s, ":"); ok {
		s = rest
	}
	s = strings.TrimSuffix(s, "_plugin.so")
	for _, family := range []struct{ prefix, name string }{
		{"python", "python3"}, {"rack", "rack"}, {"lua", "lua"}, {"psgi", "psgi"}, {"php", "php"},
		{"gevent", "gevent"}, {"greenlet", "greenlet"}, {"asyncio", "asyncio"}, {"tornado", "tornado"}, {"jvm", "jvm"},
	} {
		if rest, ok := strings.CutPrefix(s, family.prefix); ok && strings.Trim(rest, "_.0123456789rubypthon") == "" {
			return family.name
		}
	}
	return s
}

// knownPlugin reports whether uWSGI or Debian have a plugin of this name.
func knownPlugin(name string) bool { return plugins()[name] }

// plugins is made on first use, like index.
var plugins = sync.OnceValue(func() map[string]bool {
	m := map[string]bool{}
	for _, n := range strings.Fields(pluginNames) {
		m[n] = true
	}
	for i := range table {
		m[table[i].Plugin] = true
	}
	return m
})

// pluginNames are uWSGI's plugins, those without options included.
const pluginNames = `alarm_curl alarm_speech alarm_xmpp airbrake asyncio cache carbon cgi cheaper_backlog2
	cheaper_busyness clock_monotonic clock_realtime common corerouter coroae cplusplus curl_cron
	dumbloop dummy echo emperor_amqp emperor_mongodb emperor_pg emperor_zeromq example exception_log fastrouter
	ffi fiber forkptyrouter gccgo geoip gevent glusterfs graylog2 greenlet gridfs http jvm jwsgi
	ldap legion_cache_fetch libffi libtcc logcrypto logfile logger logpipe logsocket logzmq lua
	matheval mongodblog mongrel2 mono mono_app msgpack nagios notfound objc_gc pam php ping psgi
	pty pypy pyuwsgi python python3 rack rados rawrouter rbthreads redislog ring router_access
	router_basicauth router_cache router_expires router_hash router_http router_memcached
	router_metrics router_radius router_redirect router_redis router_rewrite router_spnego
	router_static router_uwsgi router_xmldir rpc rrdtool rsyslog ruby19 servlet signal spooler
	sqlite3 ssi sslrouter stackless stats_pusher_file stats_pusher_mongodb stats_pusher_socket
	stats_pusher_statsd symcall syslog systemd_logger tcc tornado transformation_chunked
	transformation_gzip transformation_offload transformation_template transformation_tofile
	transformation_toupper tuntap ugreen v8 webdav xattr xslt yajl zabbix zergpool`

// finishPlugins notes options of a plugin that the file's plugins lines do not
// name: they work here, and uWSGI with separate plugins ignored them
// (CONTRACT 22).
func (d *decoder) finishPlugins() {
	if len(d.plugins) == 0 {
		return
	}
	type use struct {
		plugin string
		s      Setting
	}
	var uses []use
	for name, at := range d.seen {
		o, _ := Lookup(name)
		if o.Plugin == "" || d.plugins[o.Plugin] || o.Class == NotYet || o.Class == Refused {
			continue
		}
		uses = append(uses, use{o.Plugin, Setting{Key: name, Origin: at}})
	}
	slices.SortFunc(uses, func(a, b use) int {
		return cmp.Or(cmp.Compare(a.s.Origin.Line, b.s.Origin.Line), strings.Compare(a.s.Key, b.s.Key))
	})
	for _, u := range uses {
		if d.plugins[u.plugin] {
			continue
		}
		d.plugins[u.plugin] = true
		d.note(vassal.CodePluginNotNamed, u.s, fmt.Sprintf("built in here; Debian's uWSGI would have ignored it without plugins = %s", u.plugin))
	}
}

// finishOwn notes options in [uwsgi] that uWSGI does not know: it takes them
// for placeholders, or ends with an error if the file says strict (CONTRACT 3).
func (d *decoder) finishOwn() {
	var own []Setting
	sections := sectionsOf(d.f.Source.Text)
	for _, s := range d.f.Settings {
		if s.Origin.File != d.f.Source.Path || s.Origin.Layer != vassal.OwnFile || s.Placeholder {
			continue
		}
		if o, ok := Lookup(s.Key); ok && o.Since == "liege" && s.Origin.Line <= len(sections) && s.Origin.Line > 0 && sections[s.Origin.Line-1] == "uwsgi" {
			own = append(own, s)
		}
	}
	if len(own) > 0 {
		d.note(vassal.CodeOwnOptionInUWSGI, own[0], "uWSGI does not know it"+others(own)+"; in a section [vassal] of this file the lines disturb no uWSGI")
	}
}

// sectionsOf is the section of each line of text.
func sectionsOf(text []byte) []string {
	var out []string
	current := ""
	for line := range strings.Lines(string(text)) {
		if l := strings.TrimSpace(line); strings.HasPrefix(l, "[") {
			current, _, _ = strings.Cut(l[1:], "]")
			current = strings.TrimSpace(current)
		}
		out = append(out, current)
	}
	return out
}
