console.log("native addon: not built yet");
