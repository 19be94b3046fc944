package sandbox

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"
)

// routeLogrus sends what libcontainer says through its global logger to log.
func routeLogrus(log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.SetLevel(logrus.WarnLevel)
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(logrusHook{log})
}

type logrusHook struct{ log *slog.Logger }

func (logrusHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

func (h logrusHook) Fire(e *logrus.Entry) error {
	// Said at every save of its state, of our own hook (KERNEL 48).
	if strings.HasPrefix(e.Message, "cannot serialize hook of type") {
		return nil
	}
	level := slog.LevelError
	if e.Level == logrus.WarnLevel {
		level = slog.LevelWarn
	}
	ctx := e.Context
	if ctx == nil {
		ctx = context.TODO() // logrus has none to give
	}
	h.log.Log(ctx, level, e.Message, "from", "libcontainer")
	return nil
}
