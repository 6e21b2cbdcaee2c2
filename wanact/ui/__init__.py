"""The page: Gradio components, layout and handlers. The only place that imports gradio; it computes nothing itself."""
