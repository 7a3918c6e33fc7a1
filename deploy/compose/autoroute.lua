-- The PACS' routing rule: every MR series, when nothing more came for StableAge seconds, over one association.
function OnStableSeries(seriesId, tags, metadata)
   if tags['Modality'] == 'MR' then
      RestApiPost('/modalities/leukoscope/store', '["' .. seriesId .. '"]', true)
   end
end
