package static

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
)

// types maps an extension without its dot to a media type.
type types struct {
	known map[string]string
	// system reads what the operating system knows, when a file is asked for
	// whose type is not known otherwise: most sites never need it.
	system func() map[string]string
}

// systemTypes is the operating system's own mime file, as uWSGI's default is.
const systemTypes = "/etc/mime.types"

// common are the types of files that web sites hold; a mimefile adds to them
// and goes before them.
var common = map[string]string{
	"aac": "audio/aac", "apk": "application/vnd.android.package-archive", "atom": "application/atom+xml",
	"avi": "video/x-msvideo", "avif": "image/avif", "bin": "application/octet-stream", "bmp": "image/bmp",
	"bz2": "application/x-bzip2", "css": "text/css", "csv": "text/csv", "deb": "application/vnd.debian.binary-package",
	"doc": "application/msword", "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	"eot": "application/vnd.ms-fontobject", "epub": "application/epub+zip", "flac": "audio/flac", "gif": "image/gif",
	"gz": "application/gzip", "heic": "image/heic", "htm": "text/html", "html": "text/html", "ico": "image/vnd.microsoft.icon",
	"ics": "text/calendar", "iso": "application/octet-stream", "jar": "application/java-archive", "jpeg": "image/jpeg",
	"jpg": "image/jpeg", "js": "text/javascript", "json": "application/json", "jsonld": "application/ld+json",
	"m3u8": "application/vnd.apple.mpegurl", "m4a": "audio/mp4", "m4v": "video/mp4", "map": "application/json",
	"md": "text/markdown", "mid": "audio/midi", "mjs": "text/javascript", "mkv": "video/x-matroska", "mov": "video/quicktime",
	"mp3": "audio/mpeg", "mp4": "video/mp4", "mpeg": "video/mpeg", "mpg": "video/mpeg",
	"odp": "application/vnd.oasis.opendocument.presentation", "ods": "application/vnd.oasis.opendocument.spreadsheet",
	"odt": "application/vnd.oasis.opendocument.text", "oga": "audio/ogg", "ogg": "audio/ogg", "ogv": "video/ogg",
	"opus": "audio/ogg", "otf": "font/otf", "pdf": "application/pdf", "png": "image/png",
	"ppt":  "application/vnd.ms-powerpoint",
	"pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	"ps":   "application/postscript", "rar": "application/vnd.rar", "rss": "application/rss+xml", "rtf": "application/rtf",
	"svg": "image/svg+xml", "svgz": "image/svg+xml", "tar": "application/x-tar", "tif": "image/tiff", "tiff": "image/tiff",
	"torrent": "application/x-bittorrent", "ts": "video/mp2t", "ttf": "font/ttf", "txt": "text/plain", "vtt": "text/vtt",
	"wasm": "application/wasm", "wav": "audio/wav", "weba": "audio/webm", "webm": "video/webm",
	"webmanifest": "application/manifest+json", "webp": "image/webp", "woff": "font/woff", "woff2": "font/woff2",
	"xhtml": "application/xhtml+xml", "xls": "application/vnd.ms-excel",
	"xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xml": "application/xml",
	"xz": "application/x-xz", "zip": "application/zip", "7z": "application/x-7z-compressed",
}

// of returns the type of a file by the extension of its name, "" when it is
// not known: then the answer has no Content-Type, as in uWSGI.
func (t *types) of(name string) string {
	i := strings.LastIndexByte(name, '.')
	if i < 0 || i < strings.LastIndexByte(name, '/') {
		return ""
	}
	ext := strings.ToLower(name[i+1:])
	if kind, ok := t.known[ext]; ok {
		return kind
	}
	return t.system()[ext]
}

// maxMime bounds a mime file, in bytes.
const maxMime = 1 << 20

// loadTypes reads mime files: lines of a type and its extensions.
func loadTypes(files []string, log *slog.Logger) *types {
	t := &types{known: common, system: sync.OnceValue(func() map[string]string {
		m := make(map[string]string)
		_ = readTypes(m, systemTypes) // not every system has one
		return m
	})}
	if len(files) == 0 {
		return t
	}
	t.known = maps.Clone(common)
	for _, name := range files {
		if err := readTypes(t.known, name); err != nil {
			log.Warn("mimefile cannot be read", "err", err)
		}
	}
	return t
}

func readTypes(t map[string]string, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMime))
	if err != nil {
		return err
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		words := strings.Fields(line)
		if len(words) < 2 || !validType(words[0]) {
			continue
		}
		for _, ext := range words[1:] {
			t[strings.ToLower(strings.TrimPrefix(ext, "."))] = words[0]
		}
	}
	return nil
}

// validType reports whether s may be the value of Content-Type.
func validType(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return strings.Contains(s, "/")
}
