package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"liege/emperor/control"
	"liege/vassal"
)

// languageRows are the rows of the catalogue that know one language's or one
// runtime's words.
func languageRows() []hintRow {
	return []hintRow{
		{match: regexp.MustCompile(`EADDRINUSE|(?i:address already in use)`), hint: addressHint},
		{match: regexp.MustCompile(`EACCES: permission denied \S+:\d{1,3}\b|(?i):\d{1,3}: bind: permission denied|(?i)\bbind\b[^\n]*[: ]\d{1,3}\b[^\n]*permission denied`),
			hint: text("the vassal has no right to ports below 1024: let the program listen on $PORT or at $LIEGE_SOCKET; who connects from outside is a matter of http = :80")},
		{serving: true, match: regexp.MustCompile(`unable to create (?:new )?native thread|can't (?:start new|create) (?i:thread)|failed to create new OS thread|(?i:fork|pthread_create|spawn)[^\n]*(?:EAGAIN|Resource temporarily unavailable)`), hint: threadsHint},
		{match: regexp.MustCompile(`JavaScript heap out of memory|java\.lang\.OutOfMemoryError(?:: [A-Z]|(?m:\s*$))|NoMemoryError|(?m:^Out of memory!)`),
			hint: text("a limit on memory was met: limit-as (MB, each process) or memory-max (the whole vassal) in the file; liege explain shows both")},
		{match: regexp.MustCompile(`Cannot find module '([^'\n]+)'|Cannot find package '([^'\n]+)'`), hint: nodeHint},
		{match: regexp.MustCompile(`Unable to access jarfile (\S+)`), hint: func(m []string, _ control.Vassal, _ string) string {
			return m[1] + " is not there inside: check the command and chdir, or bind = its directory"
		}},
		{match: regexp.MustCompile(`A server is already running\. (?:Check|\(pid)`), hint: text("rails server takes a pid file for a server that runs, be it another generation's or an old one: -P $LIEGE_SOCKET.pid behind its command, which each copy has for itself")},
		{match: regexp.MustCompile("version [`']GLIBC_([0-9.]+)' not found"), hint: func(m []string, _ control.Vassal, _ string) string {
			return "the program was built on a system with glibc " + m[1] + ", which is newer than this one: build it here, or statically (Go: CGO_ENABLED=0)"
		}},
		{match: regexp.MustCompile(`error while loading shared libraries: ([^:\s]+)`), hint: func(m []string, _ control.Vassal, _ string) string {
			return "apt-file search " + m[1] + " names the package; for a library elsewhere: bind = its directory, env = LD_LIBRARY_PATH=that"
		}},
		{match: regexp.MustCompile(`(?i)exec format error|cannot execute binary file`),
			hint: text("the program was built for another kind of machine, or is a script without its first line #!")},
		{match: regexp.MustCompile(`loadable library and perl binaries are mismatched|Can't locate loadable object for module ([\w:]+)|undefined symbol: Perl_`),
			hint: text("the module was compiled for another Perl: install it again with the perl that runs the app, or name that one")},
		{match: regexp.MustCompile(`Can't locate object method "\w+" via package "([\w:]+)" \(perhaps you forgot to load`), hint: func(m []string, _ control.Vassal, _ string) string {
			return "use " + m[1] + "; is missing in the code"
		}},
		{match: regexp.MustCompile(`incompatible library version|linked to incompatible \S*ruby|Could not find [\w.-]+ in (?:any of the sources|locally installed gems)|Bundler::GemNotFound`),
			hint: text("bundle install, in the directory of the Gemfile, with the ruby that runs the app")},
		{match: regexp.MustCompile(`undefined symbol: _?Py\w+|invalid ELF header|Python version mismatch: module was compiled`),
			hint: text("an extension was compiled for another Python: make the virtualenv anew with the interpreter that runs the app")},
	}
}

// threadsHint is for a program that gets no more processes or threads. A JVM's
// word for it is OutOfMemoryError.
func threadsHint(_ []string, v control.Vassal, _ string) string {
	if v.PidsMax == nil {
		return ""
	}
	return fmt.Sprintf("it got no more processes or threads: pids-max = %d in the file counts both, of all that the vassal runs", *v.PidsMax)
}

// phpRows are PHP's: it fails when a script is asked for, so they are looked
// for in what serves too.
func phpRows() []hintRow {
	return []hintRow{
		{serving: true, match: regexp.MustCompile(`Call to undefined function (\w+)\(\)`), hint: extensionHint},
		{serving: true, match: regexp.MustCompile(`Class ["'](\w+)["'] not found`), hint: extensionHint},
		{serving: true, match: regexp.MustCompile(`PDOException: could not find driver`), hint: text("apt install php-mysql, php-pgsql or php-sqlite3: PDO has no driver for that database; then liege reload")},
		{serving: true, match: regexp.MustCompile(`ext-(\w+)[^\n]*(?:is missing from your system|\* )`), hint: func(m []string, _ control.Vassal, _ string) string {
			return extension(m[1])
		}},
		{serving: true, match: regexp.MustCompile(`Failed opening required '[^'\n]*vendor/autoload\.php'`), hint: text("composer install, in the app's directory")},
		{serving: true, match: regexp.MustCompile(`Allowed memory size of (\d+) bytes exhausted`), hint: text("php-set = memory_limit=256M, and no more than memory-max")},
	}
}

// addressHint is for a program that wants an address that is taken; where
// Liege wants one its own problem says who has it.
func addressHint(_ []string, v control.Vassal, _ string) string {
	if v.Error != nil && v.Error.Code == vassal.CodeListen {
		return ""
	}
	return "the address that the program wants is taken, perhaps by another copy of it: let it listen on $PORT or at $LIEGE_SOCKET, which each copy has for itself, or write exec-port = its port and processes = 1"
}

func nodeHint(m []string, _ control.Vassal, dir string) string {
	name := m[1] + m[2]
	if strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".") {
		return name + " is not there, or not visible inside: check the command and chdir, or bind = its directory"
	}
	return "npm ci in " + or(dir, "the app's directory") + ", which installs what package.json names"
}

// extensions are the packages of PHP's extensions, by how the names of their
// functions and classes begin, in lower case; the longest that fits counts.
var extensions = map[string]string{
	"mysqli": "mysql", "mysql_": "mysql", "pg_": "pgsql", "sqlite": "sqlite3", "pdo": "mysql", "curl": "curl", "mb_": "mbstring", "image": "gd", "gd_": "gd",
	"simplexml": "xml", "xml": "xml", "dom": "xml", "utf8_": "xml", "zip": "zip", "numfmt_": "intl", "numberformatter": "intl", "intl": "intl", "collator": "intl",
	"normalizer": "intl", "idn_to_": "intl", "transliterator": "intl", "bc": "bcmath", "gmp": "gmp", "ldap_": "ldap", "imap_": "imap", "soap": "soap",
	"imagick": "imagick", "redis": "redis", "memcache": "memcached", "apcu_": "apcu", "tidy": "tidy", "xsl": "xsl", "snmp": "snmp", "ssh2_": "ssh2", "mongo": "mongodb", "yaml_": "yaml",
}

// extensionHint is for a function or class that no script defines: the
// extension that it is of, if it is known.
func extensionHint(m []string, _ control.Vassal, _ string) string {
	name, best := strings.ToLower(m[1]), ""
	for prefix := range extensions {
		if strings.HasPrefix(name, prefix) && len(prefix) > len(best) {
			best = prefix
		}
	}
	if best == "" {
		return ""
	}
	return extension(extensions[best])
}

func extension(name string) string {
	return "apt install php-" + strings.ToLower(name) + ", which has that extension; then liege reload"
}

// pathRows are the ways in which languages name a file that is not there, or
// that cannot be written.
func pathRows() (rows []hintRow) {
	systems := regexp.MustCompile(`^/$|^/(etc|usr|boot|root|proc|sys|dev|bin|sbin|lib\d*)/|^/(var|run)/$`) // no vassal is to write there

	for _, p := range []string{
		`No such file or directory: '(/[^'\n]+)'`, `No such file or directory @ \w+ - (/[^\s'"]+)`, `no such file or directory, \w+ '(/[^'\n]+)'`,
		`\((/[^)\n]+)\): [Ff]ailed to open stream: No such file`, `(/[^\s:'"()]+)['"]?: No such file or directory`,
	} {
		rows = append(rows, hintRow{match: regexp.MustCompile(p), look: hiddenHint})
	}
	for _, p := range []string{
		`Read-only file system: '(/[^'\n]+)'`, `Read-only file system @ \w+ - (/[^\s'"]+)`, `read-only file system, \w+ '(/[^'\n]+)'`,
		`\((/[^)\n]+)\): [Ff]ailed to open stream: Read-only file system`, `(/[^\s:'"()]+)['"]?: Read-only file system`,
	} {
		rows = append(rows, hintRow{match: regexp.MustCompile(p), hint: func(m []string, _ control.Vassal, _ string) string {
			dir := filepath.Dir(m[1])
			if systems.MatchString(dir + "/") {
				return m[1] + " is in a directory of the system's: let the app write elsewhere"
			}
			return "bind = " + dir
		}})
	}
	return rows
}
